#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "js_divergence_simd.h"
