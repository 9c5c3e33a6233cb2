// The encoder over users' histories, packed: arguments and entry point (definition: kernels/encode_histories).
#pragma once

#include <cstdint>

#include "panels.h"

namespace reg4rec {

// The slots of a user lie behind those of the user before: the start, numbered 0, and slots_per_item for each item,
// which are numbered from 1.
struct EncodeHistories {
  int64_t num_users, num_slots, num_positions, width, num_heads, ffn_width, num_blocks;
  int64_t memory_width;  // keys and values, by turns, of num_heads heads each; 0: without memory
  int64_t slots_per_item;
  const float* x;          // slots x width
  const int64_t* lengths;  // items of each user
  const float* cos;        // positions x width of a head
  const float* sin;        // likewise
  const void* weights;     // of a block after the other, as kernels/panels.py packs them
  bool is_bf16;            // the layers' weights, else float32
  float* states;           // users x width
  float* memory;           // slots x memory_width
};

struct EncoderLayers {
  Layer qkv, out, up, down;
  Norm norm_attention, norm_ffn;
};

struct Encoder {
  const EncodeHistories& args;
  const EncoderLayers* blocks;
  Layer memory;
  const int64_t* firsts;  // users + 1: where the slots of each begin
  float scale;
};

// Throws std::invalid_argument where the lengths are not those of the slots, or go beyond the positions.
void encode_histories_cpu(const EncodeHistories& args, int num_threads);

}  // namespace reg4rec
