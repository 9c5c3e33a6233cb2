#define SIMD_NAMESPACE avx2
#define SIMD_LANES 8
#include "path_attention_simd.h"
