#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "encoder_memory_simd.h"
