// bfloat16 as the upper half of a float32; static, so that no unit links to code for another instruction set.
#pragma once

#include <cstdint>

namespace reg4rec {

static inline float float_of_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  __builtin_memcpy(&y, &bits, sizeof y);
  return y;
}

// The nearest, ties to even; NaN stays NaN.
static inline uint16_t bf16_of_float(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>(x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace reg4rec
