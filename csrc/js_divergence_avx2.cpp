#define SIMD_NAMESPACE avx2
#define SIMD_LANES 8
#include "js_divergence_simd.h"
