#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "beam_step_simd.h"
