// Weights of transformer layers in the layout that csrc/layers_simd.h reads.
#pragma once

#include <cstdint>

namespace reg4rec {

constexpr int64_t kPanel = 32;  // outputs per panel; its weights are stored input-major

static constexpr int64_t whole_panels(int64_t size) { return (size + kPanel - 1) / kPanel * kPanel; }

// Room for a row of outputs that do not fill whole panels, else 0.
static constexpr int64_t loose_panels(int64_t size) { return size % kPanel == 0 ? 0 : whole_panels(size); }

// A row of scratch is three buffers as wide as a state and one for queries, keys and values or the FFN's inner
// channels.
static constexpr int64_t wide_row(int64_t width, int64_t ffn_width) {
  return whole_panels(3 * width > ffn_width ? 3 * width : ffn_width);
}
static constexpr int64_t row_width(int64_t width, int64_t ffn_width) {
  return 3 * whole_panels(width) + wide_row(width, ffn_width);
}

// float32 weights are in `panels`, bfloat16 weights in `pairs`; the other pointer is null.
struct Layer {
  int64_t in, out;
  const float* panels;    // whole_panels(out) / kPanel x in x kPanel
  const float* bias;      // whole_panels(out)
  const uint16_t* pairs;  // whole_panels(out) / kPanel x whole_panels(in) / 2 x kPanel x 2 inputs
};

// The outputs first..last-1 of a layer; `first` must begin a panel.
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

// Scratch for the attention of some rows to the same keys, one head at a time.
struct AttentionScratch {
  float* logits;  // rows x whole_panels(keys)
  float* mixed;   // rows x whole_panels(width of a head)
  float* keys;    // width of a head x whole_panels(keys)
  float* values;  // keys x whole_panels(width of a head)
  float* zeros;   // as many as the longest row above has, never written to
};

// One thread's scratch while it takes some rows through the blocks.
struct LayersScratch {
  float* rows;  // rows x row_width
  AttentionScratch attention;
  uint16_t* rounded;
  float* outputs;  // rows x loose_panels of the layers after the blocks
};

}  // namespace reg4rec
