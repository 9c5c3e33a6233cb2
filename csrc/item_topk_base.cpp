#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "item_topk_simd.h"
