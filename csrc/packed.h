// Reads packed weights one after another, and splits scratch memory into parts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "aligned.h"
#include "panels.h"

namespace reg4rec {

// Gives layers and norms in the order of kernels/panels.py. Several calls in one expression need braces around them,
// which evaluate from left to right; function arguments do not.
struct PackedWeights {
  const char* next;
  int64_t is_bf16;  // whether the layers' weights are; all others are float32

  template <typename T>
  const T* take(int64_t size) {
    return reinterpret_cast<const T*>(std::exchange(next, next + size * sizeof(T)));
  }
  Layer layer(int64_t in, int64_t out) {
    const float* panels = is_bf16 ? nullptr : take<float>(whole_panels(out) * in);
    const uint16_t* pairs = is_bf16 ? take<uint16_t>(whole_panels(out) * whole_panels(in)) : nullptr;
    return {in, out, panels, take<float>(whole_panels(out)), pairs};
  }
  Norm norm(int64_t width) {
    const float* gain = take<float>(width);
    return {gain, take<float>(width), 1e-5f};
  }
};

// Takes parts of a buffer; without a buffer it only adds up their sizes.
struct Parts {
  float* next;
  int64_t size = 0;

  float* take(int64_t count) {
    size += count;
    return next == nullptr ? nullptr : std::exchange(next, next + count);
  }
  uint16_t* halves(int64_t count) { return reinterpret_cast<uint16_t*>(take((count + 1) / 2)); }
  AttentionScratch attention(int64_t rows, int64_t keys, int64_t head_width) {
    const int64_t logits = whole_panels(keys), head = whole_panels(head_width);
    return {take(rows * logits), take(rows * head), take(head_width * logits), take(keys * head),
            take(std::max(logits, head))};
  }
};

// Calls task with scratch for `rows` rows of an op's layers, of which `queries` attend at once to `keys` keys;
// `outputs` are the loose panels of a row.
template <typename Args, typename Task>
void with_scratch(const Args& args, int64_t rows, int64_t queries, int64_t keys, int64_t outputs, Task task) {
  const auto lay_out = [&](Parts& parts) {
    return LayersScratch{parts.take(rows * row_width(args.width, args.ffn_width)),
                         parts.attention(queries, keys, args.width / args.num_heads),
                         parts.halves(args.is_bf16 ? rows * wide_row(args.width, args.ffn_width) : 0),
                         parts.take(rows * outputs)};
  };
  Parts sizes{nullptr};
  lay_out(sizes);
  AlignedFloats floats(sizes.size);
  Parts parts{floats.data()};
  task(lay_out(parts));
}

// The factor of products of queries and keys, 1 / sqrt(width of a head).
inline float head_scale(int64_t width, int64_t num_heads) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(width) / static_cast<double>(num_heads)));
}

}  // namespace reg4rec
