// Rows of decoder_step, compiled once per instruction set.
#include "decoder_step.h"
#include "layers_simd.h"

namespace {

using reg4rec::DecoderEnds;
using reg4rec::DecoderLayers;
using reg4rec::DecoderStep;

// Attention of a row to its path: the keys and values of earlier steps are read in place, its own follow the query.
inline void attend_path(const DecoderStep& args, int64_t block, int64_t row, const float* qkv, float scale,
                        float* logits, float* to) {
  const int64_t width = args.width / args.num_heads, steps = args.num_steps, user = row / args.num_paths;
  const int64_t* rows = args.rows + row * steps;
  const int64_t* strides = args.kept.strides;
  for (int64_t h = 0; h < args.num_heads; ++h) {
    const float* own = qkv + h * width;
    const float* kept = args.kept.data + user * strides[0] + 2 * block * strides[3] + h * strides[4];
    const auto keys = [&](int64_t s) {
      return s < steps ? kept + s * strides[1] + rows[s] * strides[2] : own + args.width;
    };
    const auto values = [&](int64_t s) { return s < steps ? keys(s) + strides[3] : own + 2 * args.width; };
    for (int64_t s = 0; s <= steps; ++s) logits[s] = scale * dot(own, keys(s), width);
    softmax(logits, steps + 1);
    mix(logits, steps + 1, values, width, to + h * width);
  }
}

// Attention of some rows of one user to the visible slots of the history, which is loaded once for all of them.
inline void attend_history(const DecoderStep& args, int64_t block, int64_t user, const float* q, int64_t stride,
                           int64_t rows, float scale, const AttentionScratch& scratch, float* to) {
  const int64_t width = args.width / args.num_heads, slots = args.memory_size;
  const int64_t* strides = args.memory.strides;
  const bool* visible = args.visible + user * slots;
  int64_t seen = 0;
  for (int64_t slot = 0; slot < slots; ++slot) seen += visible[slot];
  for (int64_t h = 0; h < args.num_heads; ++h) {
    const float* keys = args.memory.data + user * strides[0] + 2 * block * strides[1] + h * strides[2];
    for (int64_t slot = 0, n = 0; slot < slots; ++slot) {
      const float* key = keys + slot * strides[3];
      if (visible[slot]) load_key(scratch, width, seen, n++, key, scale, key + strides[1]);
    }
    const auto all = [seen](int64_t) { return seen; };
    attend_loaded(scratch, q + h * width, stride, rows, width, seen, all, to + h * width, stride);
  }
}

// Writes a row's keys and values, which follow its query in qkv, to the cache.
inline void keep(const DecoderStep& args, int64_t block, int64_t row, const float* qkv) {
  const int64_t width = args.width / args.num_heads, user = row / args.num_paths, path = row % args.num_paths;
  const int64_t* strides = args.kept.strides;
  float* kept = args.kept.data + user * strides[0] + args.num_steps * strides[1] + path * strides[2];
  for (int64_t z = 0; z < 2; ++z) {
    for (int64_t h = 0; h < args.num_heads; ++h) {
      __builtin_memcpy(kept + (2 * block + z) * strides[3] + h * strides[4], qkv + (1 + z) * args.width + h * width,
                       width * sizeof(float));
    }
  }
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

void decoder_step_rows(const DecoderStep& args, const DecoderLayers* blocks, const DecoderEnds& ends, float scale,
                       int64_t begin, int64_t end, const LayersScratch& scratch) {
  const int64_t rows = end - begin, width = args.width;
  const int64_t narrow = whole_panels(width), wide = wide_row(width, args.ffn_width);
  float *state = scratch.rows, *mixed = state + rows * narrow, *added = mixed + rows * narrow;
  float* hidden = added + rows * narrow;
  for (int64_t r = 0; r < rows; ++r) {
    const float* input = args.inputs + args.input_rows[begin + r] * width;
    for (int64_t c = 0; c < width; ++c) added[c] = static_cast<float>(args.input_scale) * input[c];
    add_norm(ends.norm_input, added, args.position, width, state + r * narrow);
  }
  for (int64_t block = 0; block < args.num_blocks; ++block) {
    const DecoderLayers& layers = blocks[block];
    linear(layers.qkv, state, narrow, rows, hidden, wide, scratch.rounded);
    for (int64_t r = 0; r < rows; ++r) {
      const float* own = hidden + r * wide;
      keep(args, block, begin + r, own);
      attend_path(args, block, begin + r, own, scale, scratch.attention.logits, mixed + r * narrow);
    }
    linear(layers.out, mixed, narrow, rows, added, narrow, scratch.rounded);
    add_norm_rows(layers.norm_self, state, added, rows, width, narrow);

    linear(layers.cross_q, state, narrow, rows, added, narrow, scratch.rounded);
    for (int64_t r = 0; r < rows;) {
      const int64_t user = (begin + r) / args.num_paths, rest = (user + 1) * args.num_paths - begin;
      const int64_t next = rest < rows ? rest : rows;
      attend_history(args, block, user, added + r * narrow, narrow, next - r, scale, scratch.attention,
                     mixed + r * narrow);
      r = next;
    }
    linear(layers.cross_out, mixed, narrow, rows, added, narrow, scratch.rounded);
    add_norm_rows(layers.norm_cross, state, added, rows, width, narrow);

    linear(layers.up, state, narrow, rows, hidden, wide, scratch.rounded);
    relu(hidden, rows * wide);
    linear(layers.down, hidden, wide, rows, added, narrow, scratch.rounded);
    add_norm_rows(layers.norm_ffn, state, added, rows, width, narrow);
  }
  if (args.refines) {
    linear(ends.refine, state, narrow, rows, added, narrow, scratch.rounded);
    for (int64_t r = 0; r < rows; ++r) {
      const float* before = args.states + (begin + r) / args.num_paths * width;
      for (int64_t c = 0; c < width; ++c) state[r * narrow + c] = before[c] + added[r * narrow + c];
      bound(state + r * narrow, width);
    }
  }
  if (args.writes_logits) {
    linear_dense(ends.tokens, state, narrow, rows, args.logits + begin * args.num_tokens, scratch.outputs,
                 scratch.rounded);
  }
  if (args.num_categories > 0) {
    linear_dense(ends.categories, state, narrow, rows, args.category_logits + begin * args.num_categories,
                 scratch.outputs, scratch.rounded);
  }
}

}  // namespace reg4rec::SIMD_NAMESPACE
