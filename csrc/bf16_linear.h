// Layers of bfloat16, by AMX's tiles or AVX-512's dot products.
#pragma once

#include "panels.h"

namespace reg4rec {

// Whether the current instruction set has products of bfloat16.
bool multiplies_bf16();

// y = x W' + b for a layer of bfloat16: operands are rounded to it and summed up in float32, in an order that is the
// same whatever the number of rows. `rounded` has room for rows x whole_panels(in), rows of y for whole panels.
void linear_bf16(const Layer& layer, const float* x, int64_t x_stride, int64_t rows, uint16_t* rounded, float* y,
                 int64_t y_stride);

}  // namespace reg4rec
