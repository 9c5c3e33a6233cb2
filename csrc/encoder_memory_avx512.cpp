#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "encoder_memory_simd.h"
