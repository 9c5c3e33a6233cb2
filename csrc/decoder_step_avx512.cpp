#define SIMD_NAMESPACE avx512
#define SIMD_LANES 16
#include "decoder_step_simd.h"
