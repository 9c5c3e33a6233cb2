// The decoder at one step of a search: arguments and entry point (definition: kernels/decoder_step).
#pragma once

#include <cstdint>

#include "panels.h"

namespace reg4rec {

// Keys and values of all blocks stand together: block n's keys at 2 n, its values at 2 n + 1.
struct DecoderStep {
  int64_t num_users, num_paths, width, num_heads, ffn_width, num_blocks;
  int64_t num_steps;    // before this one
  int64_t memory_size;  // slots of a history
  int64_t num_tokens, num_categories;
  bool refines, writes_logits;
  int64_t num_inputs, num_rows;  // rows of `inputs`, and of each step in `kept`
  const float* inputs;           // num_inputs x width
  const int64_t* input_rows;     // users x paths
  float input_scale;
  const float* position;    // width
  const float* states;      // users x width, read where the decoder refines them
  float* kept;              // what this step makes is written to its rows
  int64_t kept_strides[5];  // of user, step, row, key or value, and head, in elements; channels lie side by side
  const int64_t* rows;      // users x paths x steps
  const float* memory;
  int64_t memory_strides[4];  // of user, key or value, head, and slot
  const bool* visible;        // users x slots
  const void* weights;        // of a block after the other and what is around them, as kernels/panels.py packs them
  bool is_bf16;               // the layers' weights, else float32
  float* logits;              // users x paths x tokens
  float* category_logits;     // users x paths x categories
};

struct DecoderLayers {
  Layer qkv, out, cross_q, cross_out, up, down;
  Norm norm_self, norm_cross, norm_ffn;
};

// What is before and behind the blocks; a layer that there is none of has no outputs.
struct DecoderEnds {
  Layer refine, tokens, categories;
  Norm norm_input;
};

static inline int64_t most_keys(const DecoderStep& args) {
  return args.num_steps + 1 > args.memory_size ? args.num_steps + 1 : args.memory_size;
}

void decoder_step_cpu(const DecoderStep& args, int num_threads);

}  // namespace reg4rec
