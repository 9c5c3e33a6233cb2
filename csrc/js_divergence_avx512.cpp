#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "js_divergence_simd.h"
