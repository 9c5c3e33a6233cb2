#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "path_attention_simd.h"
