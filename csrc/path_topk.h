// The best items that paths lead to: arguments and entry point (definition: kernels/path_topk).
#pragma once

#include "call.h"

namespace reg4rec {

#define PATH_TOPK_FIELDS(FIELD)                                                                            \
  FIELD(int64_t, num_users)                                                                                \
  FIELD(int64_t, num_paths)                                                                                \
  FIELD(int64_t, num_codebooks)                                                                            \
  FIELD(int64_t, codebook_size)                                                                            \
  FIELD(int64_t, num_items)                                                                                \
  FIELD(int64_t, k)                                                                                        \
  FIELD(View3<const int64_t>, tokens)                                                                      \
  FIELD(View2<const float>, scores)                                                                        \
  FIELD(const int32_t*, codes) /* the index, contiguous */                                                 \
  FIELD(const int64_t*, offsets)                                                                           \
  FIELD(const int32_t*, postings)                                                                          \
  FIELD(const int64_t*, pair_offsets) /* null if pairs are not listed */                                   \
  FIELD(const int32_t*, pair_postings)                                                                     \
  FIELD(const int64_t*, rank)                                                                              \
  FIELD(View2<const int64_t>, exclude)                                                                     \
  FIELD(int64_t, num_excluded)                                                                             \
  FIELD(const float*, logits) /* users x codebooks x codewords; null: an item has the score of its path */ \
  FIELD(const float*, states) /* users x width */                                                          \
  FIELD(int64_t, width)                                                                                    \
  FIELD(const float*, residual) /* items x width */                                                        \
  FIELD(View2<const int64_t>, repeated)                                                                    \
  FIELD(int64_t, num_repeated)                                                                             \
  FIELD(double, repeat_bias)                                                                               \
  FIELD(float*, best_scores) /* results, contiguous */                                                     \
  FIELD(int64_t*, items)                                                                                   \
  FIELD(int64_t*, paths)

DEFINE_CALL(PathTopk, PATH_TOPK_FIELDS)

void path_topk_cpu(const PathTopk& args, int num_threads);

}  // namespace reg4rec
