#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "path_topk_simd.h"
