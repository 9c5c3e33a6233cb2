// The encoder over users' histories: arguments and entry point (definition: kernels/encoder_memory).
#pragma once

#include <cstdint>

#include "panels.h"

namespace reg4rec {

struct EncoderMemory {
  int64_t num_users, num_slots, width, num_heads, ffn_width, num_blocks;
  int64_t memory_width;   // keys and values, by turns, of num_heads heads each
  const float* x;         // users x slots x width
  const int64_t* seen;    // how many slots each slot sees
  const float* cos;       // slots x width of a head
  const float* sin;       // likewise
  const void* weights;    // of a block after the other, as kernels/panels.py packs them
  bool is_bf16;           // the layers' weights, else float32
  const float* turn_cos;  // users x slots x width of a head: by what the keys of the memory are turned
  const float* turn_sin;  // likewise
  float* y;               // users x slots x width
  float* memory;          // users x slots x memory_width
};

struct EncoderLayers {
  Layer qkv, out, up, down;
  Norm norm_attention, norm_ffn;
};

// What one thread writes to while some users go through the blocks: rows x row_width floats, and more.
struct EncoderScratch {
  float* rows;
  AttentionScratch attention;
  uint16_t* rounded;
  float* outputs;  // rows x whole panels of the memory's width, where that is no whole panels
};

void encoder_memory_cpu(const EncoderMemory& args, int num_threads);

}  // namespace reg4rec
