// Users of encoder_blocks, for the instruction set of the including unit.
#pragma once

#include "encoder_blocks.h"
#include "layers_simd.h"

namespace {

using reg4rec::EncoderBlocks;
using reg4rec::EncoderLayers;
using reg4rec::EncoderScratch;

// Rotates pairs of channels, which stand half a head apart.
inline void rotate(const float* cos, const float* sin, int64_t width, float* x) {
  const int64_t half = width / 2;
  for (int64_t c = 0; c < half; ++c) {
    const float low = x[c], high = x[c + half];
    x[c] = low * cos[c] - high * sin[c];
    x[c + half] = high * cos[c + half] + low * sin[c + half];
  }
}

// Attention of the slots of one user, whose queries, keys and values stand in the rows of qkv.
inline void attend_slots(const EncoderBlocks& args, float* qkv, int64_t stride, float scale,
                         const AttentionScratch& scratch, float* to, int64_t to_stride) {
  const int64_t width = args.width / args.num_heads, slots = args.num_slots;
  for (int64_t h = 0; h < args.num_heads; ++h) {
    for (int64_t slot = 0; slot < slots; ++slot) {
      float *q = qkv + slot * stride + h * width, *key = q + args.width;
      const float *cos = args.cos + slot * width, *sin = args.sin + slot * width;
      rotate(cos, sin, width, q);
      rotate(cos, sin, width, key);
      load_key(scratch, width, slots, slot, key, scale, key + args.width);
    }
    const auto seen = [&args](int64_t slot) { return args.seen[slot]; };
    attend_loaded(scratch, qkv + h * width, stride, slots, width, slots, seen, to + h * width, to_stride);
  }
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

void encoder_blocks_users(const EncoderBlocks& args, const EncoderLayers* blocks, float scale, int64_t begin,
                          int64_t end, const EncoderScratch& scratch) {
  const int64_t slots = args.num_slots, rows = (end - begin) * slots, width = args.width;
  const int64_t narrow = whole_panels(args.width), wide = wide_row(args.width, args.ffn_width);
  float *state = scratch.rows, *mixed = state + rows * narrow, *added = mixed + rows * narrow;
  float* hidden = added + rows * narrow;
  const float* x = args.x + begin * slots * width;
  int64_t x_stride = width;
  for (int64_t block = 0; block < args.num_blocks; ++block, x = state, x_stride = narrow) {
    const EncoderLayers& layers = blocks[block];
    linear(layers.qkv, x, x_stride, rows, hidden, wide);
    for (int64_t row = 0; row < rows; row += slots) {
      attend_slots(args, hidden + row * wide, wide, scale, scratch.attention, mixed + row * narrow, narrow);
    }
    linear(layers.out, mixed, narrow, rows, added, narrow);
    add_norm_rows(layers.norm_attention, x, x_stride, added, narrow, rows, width, state, narrow);

    linear(layers.up, state, narrow, rows, hidden, wide);
    relu(hidden, rows * wide);
    linear(layers.down, hidden, wide, rows, added, narrow);
    const bool last = block + 1 == args.num_blocks;
    float* to = last ? args.y + begin * slots * width : state;
    add_norm_rows(layers.norm_ffn, state, narrow, added, narrow, rows, width, to, last ? width : narrow);
  }
}

}  // namespace reg4rec::SIMD_NAMESPACE
