#define SIMD_NAMESPACE base
#define SIMD_LANES 4
#include "mpq_quantize_simd.h"
