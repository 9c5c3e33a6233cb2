// Jensen-Shannon divergence of two rows of logits: arguments and entry points (definition: kernels/js_divergence).
#pragma once

#include "js_divergence_call.h"

namespace reg4rec {

// Rows whose divergence is this close to the threshold are decided in fp64.
constexpr double kNear = 1e-5;

// Scratch of the CPU kernels: 2 x rows_at_once rows of padded_classes floats.
constexpr int64_t kMostRows = 8;
static inline int64_t rows_at_once(int64_t num_classes) { return num_classes <= 1024 ? kMostRows : 1; }
static inline int64_t padded_classes(int64_t num_classes) { return (num_classes + 15) / 16 * 16; }

void js_divergence_cpu(const JsDivergence& args, int num_threads);

}  // namespace reg4rec
