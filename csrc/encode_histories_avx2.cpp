#define SIMD_NAMESPACE avx2
#define SIMD_LANES 8
#include "encode_histories_simd.h"
