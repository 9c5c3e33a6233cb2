#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "encoder_blocks_simd.h"
