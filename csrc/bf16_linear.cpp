#include "bf16_linear.h"

#include "amx.h"
#include "isa.h"

#ifdef REG4REC_AVX512BF16
#include <immintrin.h>
#define AVX512BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#endif

namespace reg4rec {

#ifdef REG4REC_AVX512BF16

namespace {

constexpr int kRowsAtOnce = 8, kLanes = 16;

// rounded: rows x whole_panels(in), each row padded with zeros.
AVX512BF16 void round_rows(const float* x, int64_t x_stride, int64_t rows, int64_t in, uint16_t* rounded) {
  for (int64_t r = 0; r < rows; ++r, x += x_stride, rounded += whole_panels(in)) {
    for (int64_t c = 0; c < whole_panels(in); c += kLanes) {
      const int64_t left = in - c < 0 ? 0 : in - c;
      const __mmask16 lanes = left < kLanes ? (1 << left) - 1 : 0xffff;
      const __m256bh halves = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, x + c));
      __builtin_memcpy(rounded + c, &halves, sizeof halves);
    }
  }
}

// Outputs of one panel for R rows; each lane sums one output, and each instruction adds the products of two inputs.
template <int R>
AVX512BF16 inline void panel_rows(const uint16_t* x, int64_t in, const uint16_t* panel, const float* bias, float* y,
                                  int64_t y_stride) {
  __m512 lower[R], upper[R];
  for (int r = 0; r < R; ++r) {
    lower[r] = _mm512_loadu_ps(bias);
    upper[r] = _mm512_loadu_ps(bias + kLanes);
  }
  for (int64_t c = 0; c < in; c += 2, panel += 2 * kPanel) {
    const __m512bh lower_weights = (__m512bh)_mm512_loadu_si512(panel);
    const __m512bh upper_weights = (__m512bh)_mm512_loadu_si512(panel + 2 * kLanes);
    for (int r = 0; r < R; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, x + r * in + c, sizeof pair);
      const __m512bh inputs = (__m512bh)_mm512_set1_epi32(pair);
      lower[r] = _mm512_dpbf16_ps(lower[r], inputs, lower_weights);
      upper[r] = _mm512_dpbf16_ps(upper[r], inputs, upper_weights);
    }
  }
  for (int r = 0; r < R; ++r) {
    _mm512_storeu_ps(y + r * y_stride, lower[r]);
    _mm512_storeu_ps(y + r * y_stride + kLanes, upper[r]);
  }
}

template <int R>
AVX512BF16 inline void panel_all_rows(const uint16_t* x, int64_t rows, int64_t in, const uint16_t* panel,
                                      const float* bias, float* y, int64_t y_stride) {
  int64_t n = 0;
  for (; n + R <= rows; n += R) panel_rows<R>(x + n * in, in, panel, bias, y + n * y_stride, y_stride);
  if constexpr (R > 1) panel_all_rows<R - 1>(x + n * in, rows - n, in, panel, bias, y + n * y_stride, y_stride);
}

AVX512BF16 void linear_by_dot_products(const Layer& layer, const uint16_t* rounded, int64_t rows, float* y,
                                       int64_t y_stride) {
  const int64_t in = whole_panels(layer.in);
  for (int64_t first = 0; first < layer.out; first += kPanel) {
    const uint16_t* panel = layer.pairs + first * in;
    panel_all_rows<kRowsAtOnce>(rounded, rows, in, panel, layer.bias + first, y + first, y_stride);
  }
}

}  // namespace

bool multiplies_bf16() { return current_isa() >= Isa::kAvx512 && __builtin_cpu_supports("avx512bf16"); }

void linear_bf16(const Layer& layer, const float* x, int64_t x_stride, int64_t rows, uint16_t* rounded, float* y,
                 int64_t y_stride) {
  round_rows(x, x_stride, rows, layer.in, rounded);
  if (current_isa() == Isa::kAmx) return linear_by_tiles(layer, rounded, rows, y, y_stride);
  linear_by_dot_products(layer, rounded, rows, y, y_stride);
}

#else

bool multiplies_bf16() { return false; }

void linear_bf16(const Layer&, const float*, int64_t, int64_t, uint16_t*, float*, int64_t) {}

#endif

}  // namespace reg4rec
