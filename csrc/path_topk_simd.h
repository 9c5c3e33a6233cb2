// Inner products of path_topk in float64, for the instruction set of the including unit.
#pragma once

#include "simd.h"

namespace reg4rec::SIMD_NAMESPACE {

double wide_dot(const float* a, const float* b, int64_t size) {
  constexpr int64_t kDoubles = SIMD_LANES / 2;
  typedef double Double __attribute__((vector_size(kDoubles * 8)));
  typedef float Narrow __attribute__((vector_size(kDoubles * 4)));
  Double sums[2] = {};
  int64_t c = 0;
  for (; c + 2 * kDoubles <= size; c += 2 * kDoubles) {
    for (int64_t i = 0; i < 2; ++i) {
      Narrow x, y;
      __builtin_memcpy(&x, a + c + i * kDoubles, sizeof x);
      __builtin_memcpy(&y, b + c + i * kDoubles, sizeof y);
      sums[i] += __builtin_convertvector(x, Double) * __builtin_convertvector(y, Double);
    }
  }
  const Double both = sums[0] + sums[1];
  double total = 0;
  for (int64_t lane = 0; lane < kDoubles; ++lane) total += both[lane];
  for (; c < size; ++c) total += static_cast<double>(a[c]) * b[c];
  return total;
}

}  // namespace reg4rec::SIMD_NAMESPACE
