// The encoder over users' histories: arguments and entry point (definition: kernels/encoder_blocks).
#pragma once

#include <cstdint>

#include "panels.h"

namespace reg4rec {

struct EncoderBlocks {
  int64_t num_users, num_slots, width, num_heads, ffn_width, num_blocks;
  const float* x;        // users x slots x width
  const int64_t* seen;   // how many slots each slot sees
  const float* cos;      // slots x width of a head
  const float* sin;      // likewise
  const float* weights;  // of a block after the other, as kernels/panels.py packs them
  float* y;              // users x slots x width
};

struct EncoderLayers {
  Layer qkv, out, up, down;
  Norm norm_attention, norm_ffn;
};

// What one thread writes to while some users go through the blocks: rows x row_width floats, and more.
struct EncoderScratch {
  float* rows;
  AttentionScratch attention;
};

void encoder_blocks_cpu(const EncoderBlocks& args, int num_threads);

}  // namespace reg4rec
