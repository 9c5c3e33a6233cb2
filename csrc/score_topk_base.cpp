#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "score_topk_simd.h"
