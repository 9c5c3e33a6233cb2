// The arguments of beam_step, on the CPU and in CUDA.
#pragma once

#include "call.h"

namespace reg4rec {

#define BEAM_STEP_FIELDS(FIELD)                                                                           \
  FIELD(int64_t, batch)                                                                                   \
  FIELD(int64_t, num_paths)                                                                               \
  FIELD(int64_t, num_codebooks)                                                                           \
  FIELD(int64_t, codebook_size)                                                                           \
  FIELD(int64_t, num_items)                                                                               \
  FIELD(int64_t, num_excluded)                                                                            \
  FIELD(int64_t, num_beams)                                                                               \
  FIELD(int64_t, width) /* children kept: beams and spares */                                             \
  FIELD(RawView4, logits)                                                                                 \
  FIELD(View2<const float>, scores)                                                                       \
  FIELD(View3<const int64_t>, tokens)                                                                     \
  FIELD(View2<const float>, js) /* null: every path is consistent */                                      \
  FIELD(double, threshold)                                                                                \
  FIELD(View2<const int64_t>, exclude)                                                                    \
  FIELD(int64_t, renormalize)  /* softmax over the tokens that a path may take, else over the codebook */ \
  FIELD(const int32_t*, codes) /* the index, contiguous */                                                \
  FIELD(const int64_t*, offsets)                                                                          \
  FIELD(const int32_t*, postings)                                                                         \
  FIELD(const int32_t*, counts)       /* items of each token */                                           \
  FIELD(const int64_t*, pair_offsets) /* null if pairs are not listed */                                  \
  FIELD(const int32_t*, pair_postings)                                                                    \
  FIELD(int64_t*, parent) /* results, contiguous */                                                       \
  FIELD(int64_t*, token)                                                                                  \
  FIELD(float*, best_scores)                                                                              \
  FIELD(bool*, fallback)                                                                                  \
  FIELD(void*, children) /* for CUDA: users x paths x width, from the first kernel to the second */       \
  FIELD(int64_t, kept)   /* for CUDA: of this kernel's Best */                                            \
  FIELD(int64_t, capacity)

DEFINE_CALL(BeamStep, BEAM_STEP_FIELDS)

}  // namespace reg4rec
