#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "item_topk_simd.h"
