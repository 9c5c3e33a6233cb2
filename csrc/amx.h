// Products of bfloat16 by AMX, the matrix tiles of Intel's processors since Sapphire Rapids.
#pragma once

#include "panels.h"

namespace reg4rec {

// Whether the machine has tiles, and the build and the operating system allow their use.
bool may_use_tiles();

// linear_bf16 (bf16_linear.h) for rows that are already rounded.
void linear_by_tiles(const Layer& layer, const uint16_t* rounded, int64_t rows, float* y, int64_t y_stride);

constexpr int64_t kTileRows = 16, kTileBytes = 64;

// Products of up to 16 rows of signed bytes and 32 columns of unsigned bytes, both stored in groups of four: writes
// sums (rows x 32) over `fours` groups, a multiple of the 16 that fill a tile. Between begin_products and end_products
// nothing else may use tiles.
void begin_products(int64_t rows);
void add_up_products(const int32_t* rows, const uint8_t* columns, int64_t fours, int32_t* sums);
void end_products();

}  // namespace reg4rec
