// The decoder at one step of a search: arguments and entry point (definition: kernels/decoder_step).
#pragma once

#include "call.h"
#include "panels.h"

namespace reg4rec {

// Keys and values of all blocks share an axis: block n's keys are at 2 n, its values at 2 n + 1.
#define DECODER_STEP_FIELDS(FIELD)                                                                                 \
  FIELD(int64_t, num_users)                                                                                        \
  FIELD(int64_t, num_paths)                                                                                        \
  FIELD(int64_t, width)                                                                                            \
  FIELD(int64_t, num_heads)                                                                                        \
  FIELD(int64_t, ffn_width)                                                                                        \
  FIELD(int64_t, num_blocks)                                                                                       \
  FIELD(int64_t, num_steps)   /* before this one */                                                                \
  FIELD(int64_t, memory_size) /* slots of a history */                                                             \
  FIELD(int64_t, num_tokens)                                                                                       \
  FIELD(int64_t, num_categories)                                                                                   \
  FIELD(int64_t, refines)                                                                                          \
  FIELD(int64_t, writes_logits)                                                                                    \
  FIELD(int64_t, num_inputs)                                                                                       \
  FIELD(int64_t, num_rows)          /* of each step in `kept` */                                                   \
  FIELD(const float*, inputs)       /* num_inputs x width */                                                       \
  FIELD(const int64_t*, input_rows) /* users x paths */                                                            \
  FIELD(double, input_scale)                                                                                       \
  FIELD(const float*, position)     /* width */                                                                    \
  FIELD(const float*, states)       /* users x width, read if the decoder refines them */                          \
  FIELD(View5<float>, kept)         /* user, step, row, key or value, and head; this step's rows are written to */ \
  FIELD(const int64_t*, rows)       /* users x paths x steps */                                                    \
  FIELD(View4<const float>, memory) /* user, key or value, head, and slot */                                       \
  FIELD(const bool*, visible)       /* users x slots */                                                            \
  FIELD(const void*, weights)       /* of all layers and norms, packed by kernels/panels.py */                     \
  FIELD(int64_t, is_bf16)           /* whether layers' weights are, else float32 */                                \
  FIELD(float*, logits)             /* users x paths x tokens */                                                   \
  FIELD(float*, category_logits)    /* users x paths x categories */

DEFINE_CALL(DecoderStep, DECODER_STEP_FIELDS)

struct DecoderLayers {
  Layer qkv, out, cross_q, cross_out, up, down;
  Norm norm_self, norm_cross, norm_ffn;
};

// The layers and the norm around the blocks; a layer that the model lacks has no outputs.
struct DecoderEnds {
  Layer refine, tokens, categories;
  Norm norm_input;
};

static inline int64_t most_keys(const DecoderStep& args) {
  return args.num_steps + 1 > args.memory_size ? args.num_steps + 1 : args.memory_size;
}

void decoder_step_cpu(const DecoderStep& args, int num_threads);

}  // namespace reg4rec
