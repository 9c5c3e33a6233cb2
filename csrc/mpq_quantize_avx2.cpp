#define SIMD_NAMESPACE avx2
#define SIMD_LANES 8
#include "mpq_quantize_simd.h"
