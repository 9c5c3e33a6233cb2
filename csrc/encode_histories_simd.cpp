// Users of encode_histories, compiled once per instruction set.
#include "encode_histories.h"
#include "layers_simd.h"

namespace {

using reg4rec::EncodeHistories;
using reg4rec::Encoder;
using reg4rec::EncoderLayers;

// Rotates pairs of channels that are half a head apart, backwards if `sign` is -1.
inline void rotate(const float* cos, const float* sin, float sign, int64_t width, float* x) {
  const int64_t half = width / 2;
  for (int64_t c = 0; c < half; ++c) {
    const float low = x[c], high = x[c + half];
    x[c] = low * cos[c] - high * (sign * sin[c]);
    x[c + half] = high * cos[c + half] + low * (sign * sin[c + half]);
  }
}

inline void rotate_to(const EncodeHistories& args, int64_t number, float* x) {
  const int64_t width = args.width / args.num_heads;
  rotate(args.cos + number * width, args.sin + number * width, 1, width, x);
}

// The number of a slot: 0 for the start, then that of its item.
inline int64_t number_of(const EncodeHistories& args, int64_t slot) {
  return (slot + args.slots_per_item - 1) / args.slots_per_item;
}

// Attention of a user's last num_queries slots, the rows of q, to all of the user's slots, whose keys and values are
// the rows of kv.
inline void attend_slots(const EncodeHistories& args, int64_t slots, float* kv, int64_t stride, float* q,
                         int64_t q_stride, int64_t num_queries, float scale, const AttentionScratch& scratch, float* to,
                         int64_t to_stride) {
  const int64_t width = args.width / args.num_heads, before = slots - num_queries;
  const auto seen = [&](int64_t r) { return 1 + number_of(args, before + r) * args.slots_per_item; };
  for (int64_t h = 0; h < args.num_heads; ++h, q += width, kv += width, to += width) {
    for (int64_t r = 0; r < num_queries; ++r) {
      rotate_to(args, number_of(args, before + r), q + r * q_stride);
      bound(q + r * q_stride, width);
    }
    for (int64_t slot = 0; slot < slots; ++slot) {
      float* key = kv + slot * stride;
      rotate_to(args, number_of(args, slot), key);
      load_key(scratch, width, slots, slot, key, scale, key + args.width);
    }
    attend_loaded(scratch, q, q_stride, num_queries, width, slots, seen, to, to_stride);
  }
}

// Writes the keys and values of some users' slots for the decoder. Keys are rotated back by their distance to the next
// item, so that the decoder's queries need no rotation.
inline void write_memory(const Encoder& encoder, const float* state, int64_t stride, int64_t begin, int64_t end,
                         const LayersScratch& scratch) {
  const EncodeHistories& args = encoder.args;
  const int64_t width = args.width / args.num_heads, rows = encoder.firsts[end] - encoder.firsts[begin];
  float* made = args.memory + encoder.firsts[begin] * args.memory_width;
  linear_dense(encoder.memory, state, stride, rows, made, scratch.outputs, scratch.rounded);
  for (int64_t user = begin; user < end; ++user) {
    const int64_t slots = encoder.firsts[user + 1] - encoder.firsts[user];
    for (int64_t slot = 0; slot < slots; ++slot, made += args.memory_width) {
      const int64_t distance = args.lengths[user] + 1 - number_of(args, slot);
      const float *cos = args.cos + distance * width, *sin = args.sin + distance * width;
      for (int64_t c = 0; c < args.memory_width; c += width) {
        if (c / args.width % 2 == 0) rotate(cos, sin, -1, width, made + c);
      }
    }
  }
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

void encode_users(const Encoder& encoder, int64_t begin, int64_t end, const LayersScratch& scratch) {
  const EncodeHistories& args = encoder.args;
  const int64_t *firsts = encoder.firsts, first = firsts[begin], slots = firsts[end] - first, users = end - begin;
  const int64_t width = args.width, narrow = whole_panels(width), wide = wide_row(width, args.ffn_width);
  float *state = scratch.rows, *mixed = state + slots * narrow, *added = mixed + slots * narrow;
  float* hidden = added + slots * narrow;
  int64_t rows = slots;
  for (int64_t r = 0; r < rows; ++r) {
    copy_bounded(args.x + (first + r) * width, width, state + r * narrow);
  }
  for (int64_t block = 0; block < args.num_blocks; ++block) {
    const EncoderLayers& layers = encoder.blocks[block];
    if (block + 1 < args.num_blocks || args.memory_width > 0) {
      linear(layers.qkv, state, narrow, slots, hidden, wide, scratch.rounded);
      for (int64_t user = begin; user < end; ++user) {
        const int64_t row = firsts[user] - first, size = firsts[user + 1] - firsts[user];
        float* qkv = hidden + row * wide;
        attend_slots(args, size, qkv + width, wide, qkv, wide, size, encoder.scale, scratch.attention,
                     mixed + row * narrow, narrow);
      }
    } else {  // only the users' last rows are read later: they move to the front
      const int64_t from = width / kPanel * kPanel;
      linear(outputs_of(layers.qkv, from, 3 * width), state, narrow, slots, hidden + from, wide, scratch.rounded);
      rows = users;
      for (int64_t n = 0; n < users; ++n) {
        const float* last = state + (firsts[begin + n + 1] - 1 - first) * narrow;
        __builtin_memmove(state + n * narrow, last, width * sizeof(float));
      }
      linear(outputs_of(layers.qkv, 0, width), state, narrow, users, added, narrow, scratch.rounded);
      for (int64_t n = 0; n < users; ++n) {
        const int64_t row = firsts[begin + n] - first, size = firsts[begin + n + 1] - firsts[begin + n];
        attend_slots(args, size, hidden + row * wide + width, wide, added + n * narrow, narrow, 1, encoder.scale,
                     scratch.attention, mixed + n * narrow, narrow);
      }
    }
    linear(layers.out, mixed, narrow, rows, added, narrow, scratch.rounded);
    add_norm_rows(layers.norm_attention, state, added, rows, width, narrow);

    linear(layers.up, state, narrow, rows, hidden, wide, scratch.rounded);
    relu(hidden, rows * wide);
    linear(layers.down, hidden, wide, rows, added, narrow, scratch.rounded);
    add_norm_rows(layers.norm_ffn, state, added, rows, width, narrow);
  }
  if (args.memory_width > 0) write_memory(encoder, state, narrow, begin, end, scratch);
  for (int64_t user = begin; user < end; ++user) {
    const int64_t row = args.memory_width > 0 ? firsts[user + 1] - 1 - first : user - begin;
    __builtin_memcpy(args.states + user * width, state + row * narrow, width * sizeof(float));
  }
}

}  // namespace reg4rec::SIMD_NAMESPACE
