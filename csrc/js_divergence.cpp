#include "js_divergence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "aligned.h"
#include "bf16.h"
#include "isa.h"
#include "threads.h"

namespace reg4rec {

DECLARE_FOR_ISAS(void js_divergence_rows(const JsDivergence& args, int64_t begin, int64_t end, float* scratch);)

namespace {

constexpr int64_t kGrain = 1 << 14;  // classes per range

double logit(const Raw& logits, int64_t at) {
  return logits.is_bf16() ? float_of_bf16(static_cast<const uint16_t*>(logits.data)[at])
                          : static_cast<const float*>(logits.data)[at];
}

void softmax(const RawView2& logits, int64_t n, std::vector<double>& row) {
  double largest = -std::numeric_limits<double>::infinity(), total = 0;
  for (size_t c = 0; c < row.size(); ++c) {
    row[c] = logit(logits, logits.offset(n, static_cast<int64_t>(c)));
    largest = std::max(largest, row[c]);
  }
  for (double& x : row) total += x = std::exp(x - largest);
  for (double& x : row) x /= total;
}

// The fp64 divergence that decides rows near the threshold.
double exact_divergence(const JsDivergence& args, int64_t n) {
  std::vector<double> p(args.num_classes), q(args.num_classes);
  softmax(args.p_logits, n, p);
  softmax(args.q_logits, n, q);
  double js = 0;
  for (size_t c = 0; c < p.size(); ++c) {
    const double s = p[c] + q[c];
    const double t = s > 0 ? (p[c] - q[c]) / s : 0;
    const double up = t > -1 ? (1 + t) * std::log1p(t) : 0, down = t < 1 ? (1 - t) * std::log1p(-t) : 0;
    js += 0.25 * s * (up + down);
  }
  return js;
}

}  // namespace

void js_divergence_cpu(const JsDivergence& args, int num_threads) {
  const auto compare_rows = FOR_ISA(current_isa(), js_divergence_rows);
  const int64_t grain = std::max<int64_t>(1, kGrain / args.num_classes);
  parallel_for(num_threads, args.num_rows, grain, [&](int64_t begin, int64_t end) {
    AlignedFloats scratch(2 * rows_at_once(args.num_classes) * padded_classes(args.num_classes));
    compare_rows(args, begin, end, scratch.data());
    if (args.keep == nullptr) return;
    for (int64_t n = begin; n < end; ++n) {
      const double js = args.js[n];
      args.keep[n] = (std::abs(js - args.threshold) < kNear ? exact_divergence(args, n) : js) <= args.threshold;
    }
  });
}

}  // namespace reg4rec
