#define SIMD_NAMESPACE avx2
#define SIMD_LANES 8
#include "item_topk_simd.h"
