// The arguments of item_topk, on the CPU and in CUDA.
#pragma once

#include "call.h"

namespace reg4rec {

#define ITEM_TOPK_FIELDS(FIELD)                                        \
  FIELD(View3<const float>, log_probs)                                 \
  FIELD(RawView2, ids)                                                 \
  FIELD(RawView2, exclude)                                             \
  FIELD(int64_t, num_users)                                            \
  FIELD(int64_t, num_books)                                            \
  FIELD(int64_t, num_codes)                                            \
  FIELD(int64_t, num_items)                                            \
  FIELD(int64_t, num_excluded)                                         \
  FIELD(int64_t, k)                                                    \
  FIELD(float*, scores)                                                \
  FIELD(int64_t*, items)                                               \
  FIELD(int64_t, num_ranges) /* this and the following are for CUDA */ \
  FIELD(int64_t, range_size)                                           \
  FIELD(int64_t, capacity) /* of Best */                               \
  FIELD(int64_t*, keys)    /* users x ranges x k, from the first kernel to the second */

DEFINE_CALL(ItemTopk, ITEM_TOPK_FIELDS)

}  // namespace reg4rec
