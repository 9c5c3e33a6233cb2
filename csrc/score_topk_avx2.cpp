#define SIMD_NAMESPACE avx2
#define SIMD_LANES 8
#include "score_topk_simd.h"
