// The search for the nearest codewords in float32, compiled once per instruction set.
#include "mpq_quantize.h"
#include "simd.h"

namespace {

using namespace reg4rec::mpq;

constexpr int kVectors = SIMD_LANES == 16 ? 4 : 2;  // with kRows they fill the registers
constexpr int64_t kCodes = kVectors * SIMD_LANES;

// x.c - 0.5 c.c of a few rows and a tile of codes: the largest is the nearest.
template <int kCount>
inline void score_tile(const float* rows, const float* codes, const float* minus_half, int64_t width,
                       Float (&scores)[kCount][kVectors]) {
  for (int r = 0; r < kCount; ++r) {
    for (int v = 0; v < kVectors; ++v) scores[r][v] = load(minus_half + v * SIMD_LANES);
  }
  int64_t d = 0;
  do {
    Float code[kVectors];
    for (int v = 0; v < kVectors; ++v) code[v] = load(codes + v * SIMD_LANES);
    for (int r = 0; r < kCount; ++r) {
      const Float x = splat(rows[r * width + d]);
      for (int v = 0; v < kVectors; ++v) scores[r][v] += x * code[v];
    }
    codes += kCodes;
  } while (++d < width);
}

void nearest_codes(const Book& book, const float* rows, int64_t num_rows, const float* slack, int32_t* ids) {
  Float best[kChunk], second[kChunk];
  Int index[kChunk] = {};
  for (int64_t r = 0; r < kChunk; ++r) best[r] = second[r] = splat(-__builtin_inff());
  for (int64_t t = 0; t < book.num_tiles; ++t) {
    const float* codes = book.codes + t * book.width * kCodes;
    for (int64_t first = 0; first < num_rows; first += kRows) {
      Float scores[kRows][kVectors];
      score_tile(rows + first * book.width, codes, book.minus_half + t * kCodes, book.width, scores);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          const Float score = scores[r][v], before = best[first + r];
          second[first + r] = max(second[first + r], min(score, before));
          best[first + r] = score > before ? score : before;
          index[first + r] = score > before ? Int{} + static_cast<int32_t>(t * kVectors + v) : index[first + r];
        }
      }
    }
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    const Float limit = splat(max(best[r]) - slack[r]);
    const uint32_t all = (1u << SIMD_LANES) - 1, near = ~lanes_above(limit, best[r]) & all;
    const bool alone = (near & (near - 1)) == 0 && lanes_above(limit, second[r]) == all;
    const int lane = __builtin_ctz(near);
    ids[r] = alone ? index[r][lane] * SIMD_LANES + lane : -1;
  }
}

void score_row(const Book& book, const float* row, float* scores) {
  for (int64_t t = 0; t < book.num_tiles; ++t) {
    Float of_tile[1][kVectors];
    score_tile(row, book.codes + t * book.width * kCodes, book.minus_half + t * kCodes, book.width, of_tile);
    for (int v = 0; v < kVectors; ++v) store(scores + t * kCodes + v * SIMD_LANES, of_tile[0][v]);
  }
}

void load_floats(const reg4rec::Raw& from, int64_t offset, int64_t stride, int64_t size, float* to) {
  const float* floats = static_cast<const float*>(from.data) + offset;
  const uint16_t* halves = static_cast<const uint16_t*>(from.data) + offset;
  if (!from.is_bf16() && stride == 1) {
    __builtin_memcpy(to, floats, size * sizeof(float));
  } else if (!from.is_bf16()) {
    for (int64_t i = 0; i < size; ++i) to[i] = floats[i * stride];
  } else {
    for (int64_t i = 0; i < size; ++i) {
      const uint32_t bits = static_cast<uint32_t>(halves[i * stride]) << 16;
      __builtin_memcpy(to + i, &bits, sizeof bits);
    }
  }
}

float squared_length(const float* row, int64_t size) {
  const int64_t whole = size / SIMD_LANES * SIMD_LANES;
  float total = blocked_sum(whole, [&](int64_t c) { return load(row + c) * load(row + c); });
  for (int64_t c = whole; c < size; ++c) total += row[c] * row[c];
  return total;
}

// Rounds the products, as the definition does, so that the same sums overflow.
void add_scaled(float* row, float scale, int64_t size, float* to) {
  for (int64_t i = 0; i < size; ++i) row[i] *= scale;
  for (int64_t i = 0; i < size; ++i) to[i] += row[i];
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

mpq::Kernels search_kernels() { return {kCodes, nearest_codes, score_row, load_floats, squared_length, add_scaled}; }

}  // namespace reg4rec::SIMD_NAMESPACE
