#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "beam_step_simd.h"
