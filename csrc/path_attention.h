// Attention of each path of a search to its own steps: arguments and entry point (definition: kernels/path_attention).
#pragma once

#include "call.h"

namespace reg4rec {

#define PATH_ATTENTION_FIELDS(FIELD)                                           \
  FIELD(int64_t, num_users)                                                    \
  FIELD(int64_t, num_paths)                                                    \
  FIELD(int64_t, num_heads)                                                    \
  FIELD(int64_t, width)     /* of a head */                                    \
  FIELD(int64_t, num_steps) /* at most kMostSteps */                           \
  FIELD(int64_t, num_rows)  /* of each step */                                 \
  FIELD(RawView3, q)        /* user, path and head; channels are contiguous */ \
  FIELD(RawView4, keys)     /* user, step, row and head */                     \
  FIELD(RawView4, values)                                                      \
  FIELD(const int64_t*, rows) /* users x paths x steps */                      \
  FIELD(void*, mixed)         /* users x paths x heads x width, as q */

DEFINE_CALL(PathAttention, PATH_ATTENTION_FIELDS)

constexpr int64_t kMostSteps = 64;

void path_attention_cpu(const PathAttention& args, int num_threads);

}  // namespace reg4rec
