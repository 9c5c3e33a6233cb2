#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "encode_histories_simd.h"
