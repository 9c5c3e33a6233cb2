#define SIMD_NAMESPACE avx2
#define SIMD_LANES 8
#include "encoder_memory_simd.h"
