// Checks integers before an op uses them as indices, with the errors of kernels/checks.py.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "call.h"

namespace reg4rec {

struct Range {
  int64_t least = std::numeric_limits<int64_t>::max(), most = std::numeric_limits<int64_t>::min();
};

template <typename Integer, size_t N>
void widen(Range& range, const Integer* values, const std::array<int64_t, N>& shape, const int64_t* strides,
           size_t axis = 0) {
  for (int64_t i = 0; i < shape[axis]; ++i, values += strides[axis]) {
    if (axis + 1 < N) {
      widen(range, values, shape, strides, axis + 1);
    } else {
      range.least = std::min<int64_t>(range.least, *values);
      range.most = std::max<int64_t>(range.most, *values);
    }
  }
}

// Throws std::invalid_argument, which is Python's ValueError, unless all values lie in low..high.
template <typename Integer, size_t N>
void check_within(const std::string& name, const View<const Integer, N>& values, const std::array<int64_t, N>& shape,
                  int64_t low, int64_t high) {
  Range found;
  if (values.data != nullptr) widen(found, values.data, shape, values.strides);
  if (found.least > found.most || (found.least >= low && found.most <= high)) return;
  throw std::invalid_argument(name + " must lie in " + std::to_string(low) + ".." + std::to_string(high) + ", found " +
                              std::to_string(found.least) + ".." + std::to_string(found.most));
}

// The same for a dense tensor.
template <size_t N>
void check_dense(const std::string& name, const int64_t* values, const std::array<int64_t, N>& shape, int64_t low,
                 int64_t high) {
  View<const int64_t, N> dense{{values}, {}};
  int64_t stride = 1;
  for (size_t axis = N; axis-- > 0; stride *= shape[axis]) dense.strides[axis] = stride;
  check_within(name, dense, shape, low, high);
}

}  // namespace reg4rec
