// Rows of decoder_blocks, for the instruction set of the including unit.
#pragma once

#include "decoder_blocks.h"
#include "layers_simd.h"

namespace {

using reg4rec::DecoderBlocks;
using reg4rec::DecoderLayers;
using reg4rec::DecoderScratch;

// Attention of a row to its path: keys and values of the earlier steps where they were made, its own behind its query.
inline void attend_path(const DecoderBlocks& args, int64_t block, int64_t row, const float* qkv, float scale,
                        float* logits, float* to) {
  const int64_t width = args.width / args.num_heads, steps = args.num_steps, user = row / args.num_paths;
  const int64_t* rows = args.rows + row * steps;
  const int64_t* strides = args.kept_strides;
  for (int64_t h = 0; h < args.num_heads; ++h) {
    const float* own = qkv + h * width;
    const float* kept = args.kept + user * strides[0] + 2 * block * strides[3] + h * strides[4];
    const auto keys = [&](int64_t s) {
      return s < steps ? kept + s * strides[1] + rows[s] * strides[2] : own + args.width;
    };
    const auto values = [&](int64_t s) { return s < steps ? keys(s) + strides[3] : own + 2 * args.width; };
    for (int64_t s = 0; s <= steps; ++s) logits[s] = scale * dot(own, keys(s), width);
    softmax(logits, steps + 1);
    mix(logits, steps + 1, values, width, to + h * width);
  }
}

// Attention of some rows of one user to what they may see of its history.
inline void attend_history(const DecoderBlocks& args, int64_t block, int64_t user, const float* q, int64_t stride,
                           int64_t rows, float scale, const AttentionScratch& scratch, float* to) {
  const int64_t width = args.width / args.num_heads, slots = args.memory_size;
  const int64_t* strides = args.memory_strides;
  const bool* visible = args.visible + user * slots;
  int64_t seen = 0;
  for (int64_t slot = 0; slot < slots; ++slot) seen += visible[slot];
  for (int64_t h = 0; h < args.num_heads; ++h) {
    const float* keys = args.memory + user * strides[0] + 2 * block * strides[1] + h * strides[2];
    for (int64_t slot = 0, n = 0; slot < slots; ++slot) {
      const float* key = keys + slot * strides[3];
      if (visible[slot]) load_key(scratch, width, seen, n++, key, scale, key + strides[1]);
    }
    const auto all = [seen](int64_t) { return seen; };
    attend_loaded(scratch, q + h * width, stride, rows, width, seen, all, to + h * width, stride);
  }
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

void decoder_blocks_rows(const DecoderBlocks& args, const DecoderLayers* blocks, float scale, int64_t begin,
                         int64_t end, const DecoderScratch& scratch) {
  const int64_t rows = end - begin, width = args.width;
  const int64_t narrow = whole_panels(width), wide = wide_row(width, args.ffn_width);
  float *state = scratch.rows, *mixed = state + rows * narrow, *added = mixed + rows * narrow;
  float* hidden = added + rows * narrow;
  const float* x = args.x + begin * width;
  int64_t x_stride = width;
  for (int64_t block = 0; block < args.num_blocks; ++block, x = state, x_stride = narrow) {
    const DecoderLayers& layers = blocks[block];
    linear(layers.qkv, x, x_stride, rows, hidden, wide);
    for (int64_t r = 0; r < rows; ++r) {
      const float* own = hidden + r * wide;
      float* made = args.made + ((begin + r) * args.num_blocks + block) * 2 * width;
      __builtin_memcpy(made, own + width, 2 * width * sizeof(float));
      attend_path(args, block, begin + r, own, scale, scratch.attention.logits, mixed + r * narrow);
    }
    linear(layers.out, mixed, narrow, rows, added, narrow);
    add_norm_rows(layers.norm_self, x, x_stride, added, narrow, rows, width, state, narrow);

    linear(layers.cross_q, state, narrow, rows, added, narrow);
    for (int64_t r = 0; r < rows;) {
      const int64_t user = (begin + r) / args.num_paths, rest = (user + 1) * args.num_paths - begin;
      const int64_t next = rest < rows ? rest : rows;
      attend_history(args, block, user, added + r * narrow, narrow, next - r, scale, scratch.attention,
                     mixed + r * narrow);
      r = next;
    }
    linear(layers.cross_out, mixed, narrow, rows, added, narrow);
    add_norm_rows(layers.norm_cross, state, narrow, added, narrow, rows, width, state, narrow);

    linear(layers.up, state, narrow, rows, hidden, wide);
    relu(hidden, rows * wide);
    linear(layers.down, hidden, wide, rows, added, narrow);
    const bool last = block + 1 == args.num_blocks;
    float* to = last ? args.y + begin * width : state;
    add_norm_rows(layers.norm_ffn, state, narrow, added, narrow, rows, width, to, last ? width : narrow);
  }
}

}  // namespace reg4rec::SIMD_NAMESPACE
