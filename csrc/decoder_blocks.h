// The decoder at one step of a search: arguments and entry point (definition: kernels/decoder_blocks).
#pragma once

#include <cstdint>

#include "panels.h"

namespace reg4rec {

// Keys and values of all blocks stand together: block n's keys at 2 n, its values at 2 n + 1.
struct DecoderBlocks {
  int64_t num_users, num_paths, width, num_heads, ffn_width, num_blocks;
  int64_t num_steps;    // before this one
  int64_t memory_size;  // slots of a history
  const float* x;       // users x paths x width
  const float* kept;
  int64_t kept_strides[5];  // of user, step, row, key or value, and head, in elements; channels lie side by side
  const int64_t* rows;      // users x paths x steps
  const float* memory;
  int64_t memory_strides[4];  // of user, key or value, head, and slot
  const bool* visible;        // users x slots
  const float* weights;       // of a block after the other, as kernels/panels.py packs them
  float* y;                   // users x paths x width
  float* made;                // users x paths x 2 num_blocks x width: keys and values of this step
};

struct DecoderLayers {
  Layer qkv, out, cross_q, cross_out, up, down;
  Norm norm_self, norm_cross, norm_ffn;
};

static inline int64_t most_keys(const DecoderBlocks& args) {
  return args.num_steps + 1 > args.memory_size ? args.num_steps + 1 : args.memory_size;
}

// What one thread writes to while some rows go through the blocks: rows x row_width floats, and more.
struct DecoderScratch {
  float* rows;
  AttentionScratch attention;
};

void decoder_blocks_cpu(const DecoderBlocks& args, int num_threads);

}  // namespace reg4rec
