// Products of bfloat16 by AMX, the matrix tiles of Intel's processors since Sapphire Rapids.
#pragma once

#include "panels.h"

namespace reg4rec {

// Whether the machine has tiles, and the build and the operating system let them be used.
bool may_use_tiles();

// What linear_bf16 (bf16_linear.h) computes, of rounded rows.
void linear_by_tiles(const Layer& layer, const uint16_t* rounded, int64_t rows, float* y, int64_t y_stride);

constexpr int64_t kTileRows = 16, kTileBytes = 64;

// Products of bytes, signed ones of up to 16 rows and unsigned ones of 32 columns, fours of which lie together: sums
// (rows x 32) of whole columns of a tile, 16 fours. Between begin and end nothing else may use tiles.
void begin_products(int64_t rows);
void add_up_products(const int32_t* rows, const uint8_t* columns, int64_t fours, int32_t* sums);
void end_products();

}  // namespace reg4rec
