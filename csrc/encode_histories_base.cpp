#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "encode_histories_simd.h"
