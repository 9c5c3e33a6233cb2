// The sums of exponentials of beam_step in float64, compiled once per instruction set.
#include "simd.h"

namespace {

constexpr int64_t kDoubles = SIMD_LANES / 2;

typedef double Double __attribute__((vector_size(kDoubles * 8)));
typedef int64_t Long __attribute__((vector_size(kDoubles * 8)));
typedef float Narrow __attribute__((vector_size(kDoubles * 4)));

// e^x for x <= 0, relative error 1e-16 (1 + |x|); below -700 it stays at e^-700.
inline Double exp_negative(Double x) {
  const Double magic = 6755399441055744.0 - Double{};  // 1.5 * 2^52: adding it rounds to an integer in the low bits
  x = x < -700.0 ? -700.0 - Double{} : x;
  const Double shifted = x * 1.4426950408889634 + magic;
  const Double r = x - (shifted - magic) * 0.6931471805599453;
  Double y = r * 2.51003758422237e-08 + 2.7620075892548164e-07;
  y = y * r + 2.7557268480289716e-06;
  y = y * r + 2.480152132234228e-05;
  y = y * r + 0.00019841269863040559;
  y = y * r + 0.0013888888917196736;
  y = y * r + 0.008333333333330065;
  y = y * r + 0.041666666666624164;
  y = y * r + 0.16666666666666669;
  y = y * r + 0.5;
  y = y * r + 1.0;
  y = y * r + 1.0;
  return y * (Double)(((Long)shifted - (Long)magic + 1023) << 52);
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

// Copies a row of logits to `row`, finds its largest and returns the sum of e^(logit - largest), added up in the same
// order by every instruction set; NaN if the row holds NaN or +inf, or -inf only.
double exponential_sum(const void* logits, bool is_bf16, int64_t offset, int64_t stride, int64_t size, float* row,
                       float* largest) {
  *largest = load_row(logits, is_bf16, offset, stride, size, row);
  Double sums[8 / kDoubles] = {};
  for (int64_t c = 0; c < size; c += 8) {
    for (int64_t i = 0; i < 8; i += kDoubles) {
      Narrow x;
      __builtin_memcpy(&x, row + c + i, sizeof x);
      sums[i / kDoubles] += exp_negative(__builtin_convertvector(x, Double) - static_cast<double>(*largest));
    }
  }
  double lanes[8], total = 0;
  __builtin_memcpy(lanes, sums, sizeof lanes);
  for (double lane : lanes) total += lane;
  return total;
}

}  // namespace reg4rec::SIMD_NAMESPACE
