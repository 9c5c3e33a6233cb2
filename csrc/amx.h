// Products of bfloat16 by AMX, the matrix tiles of Intel's processors since Sapphire Rapids.
#pragma once

#include "panels.h"

namespace reg4rec {

// Whether the machine has tiles, and the build and the operating system let them be used.
bool may_use_tiles();

// y = x W' + b for a layer of bfloat16: operands are rounded to it and summed up in float32, in an order that is the
// same whatever the number of rows. `rounded` has room for rows x whole_panels(in), rows of y for whole panels.
void linear_by_tiles(const Layer& layer, const float* x, int64_t x_stride, int64_t rows, uint16_t* rounded, float* y,
                     int64_t y_stride);

}  // namespace reg4rec
