#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "path_topk_simd.h"
