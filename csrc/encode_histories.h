// The encoder over users' histories, packed: arguments and entry point (definition: kernels/encode_histories).
#pragma once

#include "call.h"
#include "panels.h"

namespace reg4rec {

// x has the slots of one user after another: the start, number 0, then slots_per_item for each item, numbered from 1.
#define ENCODE_HISTORIES_FIELDS(FIELD)                                                                      \
  FIELD(int64_t, num_users)                                                                                 \
  FIELD(int64_t, num_slots)                                                                                 \
  FIELD(int64_t, num_positions)                                                                             \
  FIELD(int64_t, width)                                                                                     \
  FIELD(int64_t, num_heads)                                                                                 \
  FIELD(int64_t, ffn_width)                                                                                 \
  FIELD(int64_t, num_blocks)                                                                                \
  FIELD(int64_t, memory_width) /* alternating keys and values of num_heads heads each; 0: without memory */ \
  FIELD(int64_t, slots_per_item)                                                                            \
  FIELD(const float*, x)         /* slots x width */                                                        \
  FIELD(const int64_t*, lengths) /* items of each user */                                                   \
  FIELD(const float*, cos)       /* positions x width of a head */                                          \
  FIELD(const float*, sin)       /* likewise */                                                             \
  FIELD(const void*, weights)    /* of all layers and norms, packed by kernels/panels.py */                 \
  FIELD(int64_t, is_bf16)        /* whether layers' weights are, else float32 */                            \
  FIELD(float*, states)          /* users x width */                                                        \
  FIELD(float*, memory)          /* slots x memory_width */

DEFINE_CALL(EncodeHistories, ENCODE_HISTORIES_FIELDS)

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

// Throws std::invalid_argument if the lengths do not add up to the slots, or need more positions than there are.
void encode_histories_cpu(const EncodeHistories& args, int num_threads);

}  // namespace reg4rec
