// Weights of transformer layers as csrc/layers_simd.h reads them.
#pragma once

#include <cstdint>

namespace reg4rec {

constexpr int64_t kPanel = 32;  // outputs of a panel: its weights lie input by input, outputs side by side

static constexpr int64_t whole_panels(int64_t size) { return (size + kPanel - 1) / kPanel * kPanel; }

// Room for outputs that are no whole panels.
static constexpr int64_t loose_panels(int64_t size) { return size % kPanel == 0 ? 0 : whole_panels(size); }

// A row of scratch is three buffers as wide as a state and one that holds queries, keys and values, or the FFN's inner.
static constexpr int64_t wide_row(int64_t width, int64_t ffn_width) {
  return whole_panels(3 * width > ffn_width ? 3 * width : ffn_width);
}
static constexpr int64_t row_width(int64_t width, int64_t ffn_width) {
  return 3 * whole_panels(width) + wide_row(width, ffn_width);
}

// Of float32 weights or of bfloat16, which are then in `pairs`.
struct Layer {
  int64_t in, out;
  const float* panels;    // whole_panels(out) / kPanel times in x kPanel
  const float* bias;      // whole_panels(out)
  const uint16_t* pairs;  // whole_panels(out) / kPanel times whole_panels(in) / 2 x kPanel x 2 inputs
};

// The outputs first..last of a layer, of which the first begins a panel.
static inline Layer outputs_of(const Layer& layer, int64_t first, int64_t last) {
  const float* panels = layer.panels == nullptr ? nullptr : layer.panels + first * layer.in;
  const uint16_t* pairs = layer.pairs == nullptr ? nullptr : layer.pairs + first * whole_panels(layer.in);
  return {layer.in, last - first, panels, layer.bias + first, pairs};
}

struct Norm {
  const float* gain;
  const float* bias;
  float epsilon;
};

// What attention of some rows to the same keys works with, head by head.
struct AttentionScratch {
  float* logits;  // rows x whole_panels(keys)
  float* mixed;   // rows x whole_panels(width of a head)
  float* keys;    // width of a head x whole_panels(keys)
  float* values;  // keys x whole_panels(width of a head)
  float* zeros;   // as many as the longest of these rows has, never written to
};

// What one thread writes to while some rows go through the blocks: rows x row_width floats, and more.
struct LayersScratch {
  float* rows;
  AttentionScratch attention;
  uint16_t* rounded;
  float* outputs;  // rows x whole panels of what comes behind the blocks, where that is no whole panels
};

}  // namespace reg4rec
