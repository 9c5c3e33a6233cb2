// The rows of js_divergence in float32, compiled once per instruction set.
#include "js_divergence.h"
#include "simd.h"

namespace {

using reg4rec::JsDivergence;

inline float load_logits(const reg4rec::RawView2& logits, int64_t n, int64_t size, float* row) {
  return load_row(logits.data, logits.is_bf16(), logits.offset(n), logits.strides[1], size, row);
}

// Replaces logits by e^(logit - largest); returns one over their sum.
inline float exponentiate(float* row, int64_t size, float largest) {
  const float total = blocked_sum(size, [&](int64_t c) {
    const Float e = exp_negative(load(row + c) - largest);
    store(row + c, e);
    return e;
  });
  return 1.0f / total;
}

// (p + q) [a ln a + b ln b] with b = 2 min(p, q) / (p + q) and a = 2 - b; ln a comes from a polynomial in t = 1 - b.
inline Float term(Float p, Float q) {
  const Float s = p + q;
  const Float b = 2.0f * min(p, q) * reciprocal(s);
  const Float t = 1.0f - b;
  Float h = t * 0.00227542538f - 0.0110781372f;
  h = h * t + 0.0267650273f;
  h = h * t - 0.0480649349f;
  h = h * t + 0.0830477671f;
  h = h * t - 0.166650485f;
  h = h * t + 0.499999849f;
  h = h * t + 1.0f;
  return s * (h * t + b * log_positive(b));
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

// A few short rows at a time, phase by phase, so that the processor overlaps the end of one row with the start of the
// next.
void js_divergence_rows(const JsDivergence& args, int64_t begin, int64_t end, float* scratch) {
  const int64_t size = args.num_classes, padded = padded_classes(size), step = rows_at_once(size);
  float p_scale[kMostRows], q_scale[kMostRows];
  for (int64_t n = begin; n < end; n += step) {
    const int64_t num_rows = n + step < end ? step : end - n;
    for (int64_t i = 0; i < num_rows; ++i) {
      float* row = scratch + 2 * i * padded;
      p_scale[i] = load_logits(args.p_logits, n + i, size, row);
      q_scale[i] = load_logits(args.q_logits, n + i, size, row + padded);
    }
    for (int64_t i = 0; i < num_rows; ++i) {
      float* row = scratch + 2 * i * padded;
      p_scale[i] = exponentiate(row, size, p_scale[i]);
      q_scale[i] = exponentiate(row + padded, size, q_scale[i]);
    }
    for (int64_t i = 0; i < num_rows; ++i) {
      const float *p = scratch + 2 * i * padded, *q = p + padded;
      const float js = 0.25f * blocked_sum(size, [&](int64_t c) {
                         return term(load(p + c) * p_scale[i], load(q + c) * q_scale[i]);
                       });
      args.js[n + i] = js < 0 ? 0 : js;
    }
  }
}

}  // namespace reg4rec::SIMD_NAMESPACE
