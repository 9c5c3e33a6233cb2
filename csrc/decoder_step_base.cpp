#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "decoder_step_simd.h"
