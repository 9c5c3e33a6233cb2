// Users of encoder_memory, for the instruction set of the including unit.
#pragma once

#include "encoder_memory.h"
#include "layers_simd.h"

namespace {

using reg4rec::EncoderLayers;
using reg4rec::EncoderMemory;
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
inline void attend_slots(const EncoderMemory& args, float* qkv, int64_t stride, float scale,
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

void encoder_memory_users(const EncoderMemory& args, const EncoderLayers* blocks, const Layer& memory, float scale,
                          int64_t begin, int64_t end, const EncoderScratch& scratch) {
  const int64_t slots = args.num_slots, rows = (end - begin) * slots, first = begin * slots, width = args.width;
  const int64_t narrow = whole_panels(args.width), wide = wide_row(args.width, args.ffn_width);
  float *state = scratch.rows, *mixed = state + rows * narrow, *added = mixed + rows * narrow;
  float* hidden = added + rows * narrow;
  for (int64_t r = 0; r < rows; ++r) {
    __builtin_memcpy(state + r * narrow, args.x + (first + r) * width, width * sizeof(float));
  }
  for (int64_t block = 0; block < args.num_blocks; ++block) {
    const EncoderLayers& layers = blocks[block];
    linear(layers.qkv, state, narrow, rows, hidden, wide, scratch.rounded);
    for (int64_t row = 0; row < rows; row += slots) {
      attend_slots(args, hidden + row * wide, wide, scale, scratch.attention, mixed + row * narrow, narrow);
    }
    linear(layers.out, mixed, narrow, rows, added, narrow, scratch.rounded);
    add_norm_rows(layers.norm_attention, state, added, rows, width, narrow);

    linear(layers.up, state, narrow, rows, hidden, wide, scratch.rounded);
    relu(hidden, rows * wide);
    linear(layers.down, hidden, wide, rows, added, narrow, scratch.rounded);
    add_norm_rows(layers.norm_ffn, state, added, rows, width, narrow);
  }
  for (int64_t r = 0; r < rows; ++r) {
    __builtin_memcpy(args.y + (first + r) * width, state + r * narrow, width * sizeof(float));
  }
  float* made = args.memory + first * args.memory_width;
  linear_dense(memory, state, narrow, rows, made, scratch.outputs, scratch.rounded);
  const int64_t head = width / args.num_heads;
  for (int64_t r = 0; r < rows; ++r, made += args.memory_width) {
    const float *cos = args.turn_cos + (first + r) * head, *sin = args.turn_sin + (first + r) * head;
    for (int64_t c = 0; c < args.memory_width; c += head) {
      if (c / width % 2 == 0) rotate(cos, sin, head, made + c);
    }
  }
}

}  // namespace reg4rec::SIMD_NAMESPACE
