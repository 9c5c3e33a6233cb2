// Nearest codewords and their gated sum: arguments, entry point, and what the units per instruction set share
// (definition: kernels/mpq_quantize; with a projection: kernels/mpq_quantize_fused).
#pragma once

#include "call.h"

namespace reg4rec {

#define MPQ_QUANTIZE_FIELDS(FIELD)                                                                       \
  FIELD(RawView3, latents)                                                                               \
  FIELD(RawView3, codebooks)                                                                             \
  FIELD(RawView2, gate)                                                                                  \
  FIELD(View2<const float>, error) /* bounds the length of the latents' error vectors; null: none */     \
  FIELD(RawView3, hidden)          /* with weight and bias gives latents in fp64, if they have errors */ \
  FIELD(RawView3, weight)                                                                                \
  FIELD(RawView2, bias)                                                                                  \
  FIELD(int64_t, num_rows)                                                                               \
  FIELD(int64_t, num_books)                                                                              \
  FIELD(int64_t, num_codes)                                                                              \
  FIELD(int64_t, width)                                                                                  \
  FIELD(int64_t, hidden_width)                                                                           \
  FIELD(int64_t*, ids) /* rows x books */                                                                \
  FIELD(void*, mixed)  /* rows x width, as the codebooks */

DEFINE_CALL(MpqQuantize, MPQ_QUANTIZE_FIELDS)

void mpq_quantize_cpu(const MpqQuantize& args, int num_threads);

namespace mpq {

constexpr int64_t kChunk = 96;  // rows for which a tile of codes stays in the cache
constexpr int64_t kRows = 6;    // rows of a register tile; divides kChunk

// One codebook in tiles of the unit's `codes_at_once` codewords, each (width, codes_at_once), padded with codewords
// that are never nearest; minus_half is -0.5 c.c of each.
struct Book {
  const float* codes;
  const float* minus_half;
  int64_t num_tiles, width;
};

struct Kernels {
  int64_t codes_at_once;
  // Ids of up to kChunk rows; -1 if a second code is within the row's slack of the best. Reads whole register tiles, so
  // `rows` has room for a multiple of kRows.
  void (*nearest_codes)(const Book& book, const float* rows, int64_t num_rows, const float* slack, int32_t* ids);
  // x.c - 0.5 c.c of one row and all codes.
  void (*score_row)(const Book& book, const float* row, float* scores);
  // Copies `size` floats that are `stride` apart.
  void (*load_floats)(const Raw& from, int64_t offset, int64_t stride, int64_t size, float* to);
  float (*squared_length)(const float* row, int64_t size);
  void (*add_scaled)(float* row, float scale, int64_t size, float* to);
};

}  // namespace mpq

}  // namespace reg4rec
