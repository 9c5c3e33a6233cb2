#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "mpq_quantize_simd.h"
