#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "score_topk_simd.h"
