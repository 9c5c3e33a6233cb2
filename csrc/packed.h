// Reads packed weights and hands out scratch, one part behind the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "panels.h"

namespace reg4rec {

// Braces around calls keep the order, which is that of kernels/panels.py.
struct PackedWeights {
  const float* next;

  const float* take(int64_t size) { return std::exchange(next, next + size); }
  Layer layer(int64_t in, int64_t out) {
    const float* panels = take(whole_panels(out) * in);
    return {in, out, panels, take(whole_panels(out))};
  }
  Norm norm(int64_t width) {
    const float* gain = take(width);
    return {gain, take(width), 1e-5f};
  }
};

// Parts of a buffer; without a buffer it adds up their sizes.
struct Parts {
  float* next;
  int64_t size = 0;

  float* take(int64_t count) {
    size += count;
    return next == nullptr ? nullptr : std::exchange(next, next + count);
  }
  AttentionScratch attention(int64_t rows, int64_t keys, int64_t head_width) {
    const int64_t logits = whole_panels(keys), head = whole_panels(head_width);
    return {take(rows * logits), take(rows * head), take(head_width * logits), take(keys * head),
            take(std::max(logits, head))};
  }
};

}  // namespace reg4rec
