// Layers with bfloat16 weights, by AMX's tiles or AVX-512's dot products.
#pragma once

#include "panels.h"

namespace reg4rec {

// Whether the current instruction set has products of bfloat16.
bool multiplies_bf16();

// y = x W' + b for a layer with bfloat16 weights: x is rounded to bfloat16, and products are summed in float32, in an
// order that does not depend on the number of rows. `rounded` has room for rows x whole_panels(in), each row of y for
// whole panels.
void linear_bf16(const Layer& layer, const float* x, int64_t x_stride, int64_t rows, uint16_t* rounded, float* y,
                 int64_t y_stride);

}  // namespace reg4rec
