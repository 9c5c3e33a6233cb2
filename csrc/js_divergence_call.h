// The arguments of js_divergence, on the CPU and in CUDA.
#pragma once

#include "call.h"

namespace reg4rec {

#define JS_DIVERGENCE_FIELDS(FIELD)                 \
  FIELD(RawView2, p_logits)                         \
  FIELD(RawView2, q_logits)                         \
  FIELD(int64_t, num_rows)                          \
  FIELD(int64_t, num_classes)                       \
  FIELD(float*, js)                                 \
  FIELD(bool*, keep) /* null without a threshold */ \
  FIELD(double, threshold)

DEFINE_CALL(JsDivergence, JS_DIVERGENCE_FIELDS)

}  // namespace reg4rec
