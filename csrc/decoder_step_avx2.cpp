#define SIMD_NAMESPACE avx2
#define SIMD_LANES 8
#include "decoder_step_simd.h"
