// Parts of transformer layers on float32 rows, for the instruction set of the including unit.
#pragma once

#include "bf16_linear.h"
#include "panels.h"
#include "simd.h"

namespace {

using reg4rec::AttentionScratch;
using reg4rec::kPanel;
using reg4rec::Layer;
using reg4rec::LayersScratch;
using reg4rec::Norm;
using reg4rec::outputs_of;
using reg4rec::whole_panels;

constexpr int kVectors = kPanel / SIMD_LANES;
constexpr int kRowsAtOnce = SIMD_LANES == 16 ? 8 : SIMD_LANES == 8 ? 3 : 1;  // sums and factors fit into registers

// Outputs of one panel for R rows of x: each weight is loaded once for R rows.
template <int R>
inline void panel_rows(const float* x, int64_t x_stride, int64_t in, const float* panel, const float* bias, float* y,
                       int64_t y_stride) {
  Float totals[R][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    for (int r = 0; r < R; ++r) totals[r][v] = load(bias + v * SIMD_LANES);
  }
  for (int64_t c = 0; c < in; ++c, panel += kPanel) {
    Float weights[kVectors];
    for (int v = 0; v < kVectors; ++v) weights[v] = load(panel + v * SIMD_LANES);
    for (int r = 0; r < R; ++r) {
      const float factor = x[r * x_stride + c];
      for (int v = 0; v < kVectors; ++v) totals[r][v] += factor * weights[v];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) store(y + r * y_stride + v * SIMD_LANES, totals[r][v]);
  }
}

template <int R>
inline void panel_all_rows(const float* x, int64_t x_stride, int64_t rows, int64_t in, const float* panel,
                           const float* bias, float* y, int64_t y_stride) {
  int64_t n = 0;
  for (; n + R <= rows; n += R) {
    panel_rows<R>(x + n * x_stride, x_stride, in, panel, bias, y + n * y_stride, y_stride);
  }
  if constexpr (R > 1) {
    panel_all_rows<R - 1>(x + n * x_stride, x_stride, rows - n, in, panel, bias, y + n * y_stride, y_stride);
  }
}

// y = x W' + b; rows of y have room for whole panels. Sums run over the channels in order, so they do not depend on
// the number of rows. A bfloat16 layer writes to `rounded`, which has room for rows x whole_panels(in).
inline void linear(const Layer& layer, const float* x, int64_t x_stride, int64_t rows, float* y, int64_t y_stride,
                   uint16_t* rounded = nullptr) {
  if (layer.pairs != nullptr) return reg4rec::linear_bf16(layer, x, x_stride, rows, rounded, y, y_stride);
  for (int64_t first = 0; first < layer.out; first += kPanel) {
    const float* panel = layer.panels + first * layer.in;
    panel_all_rows<kRowsAtOnce>(x, x_stride, rows, layer.in, panel, layer.bias + first, y + first, y_stride);
  }
}

// The same with the rows of y contiguous, without padding; `scratch` has room for rows of whole panels.
inline void linear_dense(const Layer& layer, const float* x, int64_t x_stride, int64_t rows, float* y, float* scratch,
                         uint16_t* rounded) {
  const int64_t wide = whole_panels(layer.out);
  if (wide == layer.out) return linear(layer, x, x_stride, rows, y, wide, rounded);
  linear(layer, x, x_stride, rows, scratch, wide, rounded);
  for (int64_t r = 0; r < rows; ++r) __builtin_memcpy(y + r * layer.out, scratch + r * wide, layer.out * sizeof(float));
}

inline void copy_bounded(const float* from, int64_t size, float* to) {
  int64_t c = 0;
  for (; c + SIMD_LANES <= size; c += SIMD_LANES) store(to + c, bounded(load(from + c)));
  for (; c < size; ++c) to[c] = bounded(from[c]);
}

inline void bound(float* x, int64_t size) { copy_bounded(x, size, x); }

inline void relu(float* x, int64_t size) {
  for (int64_t c = 0; c < size; ++c) x[c] = x[c] < 0 ? 0 : x[c];  // NaN stays
}

// to = norm(x + y) for one row; NaN if its root mean square is not in bounds.
inline void add_norm(const Norm& norm, const float* x, const float* y, int64_t width, float* to) {
  Float totals = splat(0);
  float total = 0;
  int64_t c = 0;
  for (; c + SIMD_LANES <= width; c += SIMD_LANES) {
    const Float both = load(x + c) + load(y + c);
    store(to + c, both);
    totals += both;
  }
  for (; c < width; ++c) total += to[c] = x[c] + y[c];
  const float mean = (sum(totals) + total) / width;
  Float squares = splat(0), rests = splat(0);
  float square = 0, rest = 0;
  for (c = 0; c + SIMD_LANES <= width; c += SIMD_LANES) {
    const Float off = load(to + c) - mean;
    store(to + c, off);
    squares += off * off;
    rests += off;
  }
  for (; c < width; ++c) {
    to[c] -= mean;
    square += to[c] * to[c];
    rest += to[c];
  }
  // the rounding error of the mean, which is all that remains of a row of equal numbers
  const float shift = (sum(rests) + rest) / width, rounded = (sum(squares) + square) / width - shift * shift;
  const float variance = rounded < 0 ? 0 : rounded;
  const float size = bounded(__builtin_sqrtf(variance + mean * mean));
  const float scale = size == size ? 1 / __builtin_sqrtf(variance + norm.epsilon) : size;
  for (c = 0; c + SIMD_LANES <= width; c += SIMD_LANES) {
    store(to + c, (load(to + c) - shift) * scale * load(norm.gain + c) + load(norm.bias + c));
  }
  for (; c < width; ++c) to[c] = (to[c] - shift) * scale * norm.gain[c] + norm.bias[c];
}

// state = norm(state + added) for some rows.
inline void add_norm_rows(const Norm& norm, float* state, const float* added, int64_t rows, int64_t width,
                          int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    add_norm(norm, state + r * stride, added + r * stride, width, state + r * stride);
  }
}

// NaN if a number is not in bounds.
inline float dot(const float* a, const float* b, int64_t size) {
  Float totals = splat(0);
  int64_t c = 0;
  for (; c + SIMD_LANES <= size; c += SIMD_LANES) totals += bounded(load(a + c)) * bounded(load(b + c));
  float total = sum(totals);
  for (; c < size; ++c) total += bounded(a[c]) * bounded(b[c]);
  return total;
}

// to = the sum of the rows values(n) with these weights, over `width` channels.
template <typename Values>
inline void mix(const float* weights, int64_t size, Values values, int64_t width, float* to) {
  int64_t c = 0;
  for (; c + SIMD_LANES <= width; c += SIMD_LANES) {
    Float mixed = splat(0);
    for (int64_t n = 0; n < size; ++n) mixed += weights[n] * bounded(load(values(n) + c));
    store(to + c, mixed);
  }
  for (; c < width; ++c) {
    float mixed = 0;
    for (int64_t n = 0; n < size; ++n) mixed += weights[n] * bounded(values(n)[c]);
    to[c] = mixed;
  }
}

// Loads the n-th of `size` keys and values, of `width` channels, as weights of two layers, queries to logits and logits
// to values: so attention runs as products of many rows with packed weights.
inline void load_key(const AttentionScratch& scratch, int64_t width, int64_t size, int64_t n, const float* key,
                     float scale, const float* value) {
  float* column = scratch.keys + n / kPanel * kPanel * width + n % kPanel;
  for (int64_t c = 0; c < width; ++c) column[c * kPanel] = scale * bounded(key[c]);
  for (int64_t c = 0; c < width; c += kPanel) {
    const int64_t part = width - c < kPanel ? width - c : kPanel;
    copy_bounded(value + c, part, scratch.values + c * size + n * kPanel);
  }
}

// Attention of rows of queries to the keys that were loaded; row r sees the first seen(r) of them.
template <typename Seen>
inline void attend_loaded(const AttentionScratch& scratch, const float* q, int64_t stride, int64_t rows, int64_t width,
                          int64_t size, Seen seen, float* to, int64_t to_stride) {
  const int64_t logits = whole_panels(size), mixed = whole_panels(width);
  linear({width, size, scratch.keys, scratch.zeros, nullptr}, q, stride, rows, scratch.logits, logits);
  for (int64_t r = 0; r < rows; ++r) {
    softmax(scratch.logits + r * logits, seen(r));
    for (int64_t n = seen(r); n < size; ++n) scratch.logits[r * logits + n] = 0;
  }
  linear({size, width, scratch.values, scratch.zeros, nullptr}, scratch.logits, logits, rows, scratch.mixed, mixed);
  for (int64_t r = 0; r < rows; ++r) {
    __builtin_memcpy(to + r * to_stride, scratch.mixed + r * mixed, width * sizeof(float));
  }
}

}  // namespace
