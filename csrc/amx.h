// Products of bfloat16 by AMX, the matrix tiles of Intel's processors since Sapphire Rapids.
#pragma once

#include "panels.h"

namespace reg4rec {

// Whether the machine has tiles, and the build and the operating system let them be used.
bool may_use_tiles();

// What linear_bf16 (bf16_linear.h) computes, of rounded rows.
void linear_by_tiles(const Layer& layer, const uint16_t* rounded, int64_t rows, float* y, int64_t y_stride);

}  // namespace reg4rec
