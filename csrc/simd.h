// Vectors of SIMD_LANES floats for one instruction set per translation unit; no STL here: the linker keeps one copy of
// its inline functions, which could then run instructions that the machine lacks. NaN passes through every function.
#pragma once

#include <cstdint>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace {

typedef float Float __attribute__((vector_size(SIMD_LANES * 4)));
typedef int32_t Int __attribute__((vector_size(SIMD_LANES * 4)));
typedef uint32_t Uint __attribute__((vector_size(SIMD_LANES * 4)));
typedef uint16_t Half __attribute__((vector_size(SIMD_LANES * 2)));

inline Float load(const float* from) {
  Float x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

inline Float load_bf16(const uint16_t* from) {
  Half x;
  __builtin_memcpy(&x, from, sizeof x);
  return (Float)(__builtin_convertvector(x, Uint) << 16);
}

inline void store(float* to, Float x) { __builtin_memcpy(to, &x, sizeof x); }

inline Float splat(float x) { return x - Float{}; }

inline Float max(Float a, Float b) { return a > b ? a : b; }

inline Float min(Float a, Float b) { return a < b ? a : b; }

// Bit i is set where a > b in lane i.
inline uint32_t lanes_above(Float a, Float b) {
#if SIMD_LANES == 16
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
#elif SIMD_LANES == 8
  return _mm256_movemask_ps((Float)(a > b));
#elif defined(__SSE2__)
  return _mm_movemask_ps((Float)(a > b));
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < SIMD_LANES; ++lane) bits |= static_cast<uint32_t>(a[lane] > b[lane]) << lane;
  return bits;
#endif
}

inline Float gather(const float* table, const int32_t* indices) {
#if SIMD_LANES == 16
  return _mm512_i32gather_ps(_mm512_loadu_si512(indices), table, sizeof(float));
#elif SIMD_LANES == 8
  return _mm256_i32gather_ps(table, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices)), sizeof(float));
#else
  Float x;
  for (int lane = 0; lane < SIMD_LANES; ++lane) x[lane] = table[indices[lane]];
  return x;
#endif
}

// The upper half of the lanes is combined with the lower one, lane by lane, until one is left.
template <typename Combine>
inline float fold(Float x, Combine combine) {
#if SIMD_LANES >= 8
#if SIMD_LANES == 16
  __m256 halves[2];
  __builtin_memcpy(halves, &x, sizeof x);
  const __m256 eight = combine(halves[0], halves[1]);
#else
  const __m256 eight = x;
#endif
  const __m128 four = combine(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = combine(four, _mm_movehl_ps(four, four));
  return combine(two, _mm_movehdup_ps(two))[0];
#else
  float lanes[SIMD_LANES];
  store(lanes, x);
  for (int width = SIMD_LANES / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] = combine(lanes[lane], lanes[lane + width]);
  }
  return lanes[0];
#endif
}

inline float sum(Float x) {
  return fold(x, [](auto a, auto b) { return a + b; });
}

inline float max(Float x) {
  return fold(x, [](auto a, auto b) { return a > b ? a : b; });
}

// 1 / x for normal x, relative error 1e-7.
inline Float reciprocal(Float x) {
#if SIMD_LANES == 16
  const Float y = _mm512_rcp14_ps(x);
  return y + y * (1.0f - x * y);
#else
  return 1.0f / x;
#endif
}

// e^x for x <= 0, relative error 6e-8; below -75 it stays at e^-75, so that no product of it is subnormal.
inline Float exp_negative(Float x) {
  const Float magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  x = x < -75.0f ? splat(-75.0f) : x;
  const Float shifted = x * 1.44269504f + magic;
  const Float n = shifted - magic;
  const Float r = x - n * 0.693145752f - n * 1.42860677e-6f;
  Float y = r * 0.00139412072f + 0.00836323508f;
  y = y * r + 0.0416663742f;
  y = y * r + 0.166665766f;
  y = y * r + 0.5f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  return y * (Float)(((Int)shifted - (Int)magic + 127) << 23);
}

// Numbers of this magnitude or more become NaN in attention and norms: whether their products overflow depends on the
// order of sums (kernels/bounds.py).
constexpr float kMost = 1e15f;

inline float bounded(float x) { return x < kMost && x > -kMost ? x : __builtin_nanf(""); }

inline Float bounded(Float x) {
  const Int magnitude = (Int)x & 0x7fffffff;  // sorts as the magnitudes do, infinity and NaN last
  return magnitude < (Int)splat(kMost) ? x : splat(__builtin_nanf(""));
}

// Replaces logits by their softmax; the buffer has room for whole vectors.
inline void softmax(float* logits, int64_t size) {
  float largest = logits[0], total = 0;
  for (int64_t n = 1; n < size; ++n) largest = logits[n] > largest ? logits[n] : largest;
  for (int64_t n = 0; n < size; n += SIMD_LANES) store(logits + n, exp_negative(load(logits + n) - largest));
  for (int64_t n = 0; n < size; ++n) total += logits[n];
  for (int64_t n = 0; n < size; ++n) logits[n] /= total;
}

// ln x for normal x > 0, relative error 1e-7 also next to 1.
inline Float log_positive(Float x) {
  const Int exponent = ((Int)x - 0x3f3504f3) >> 23;  // such that the mantissa lies in [sqrt(1/2), sqrt(2))
  const Float r = (Float)((Int)x - (exponent << 23)) - 1.0f;
  Float y = r * 0.0922630945f - 0.143521672f;
  y = y * r + 0.147750598f;
  y = y * r - 0.165620395f;
  y = y * r + 0.199744573f;
  y = y * r - 0.250020579f;
  y = y * r + 0.333336427f;
  y = y * r - 0.499999926f;
  return __builtin_convertvector(exponent, Float) * 0.693147181f + (r + r * r * y);
}

// The sum of term(c) over c = 0, SIMD_LANES, ... < size, in blocks, so that rounding errors stay small.
template <typename Term>
inline float blocked_sum(int64_t size, Term term) {
  Float total = splat(0);
  for (int64_t c = 0; c < size;) {
    const int64_t end = c + 32 * SIMD_LANES < size ? c + 32 * SIMD_LANES : size;
    Float block = splat(0);
    for (; c < end; c += SIMD_LANES) block += term(c);
    total += block;
  }
  return sum(total);
}

constexpr float kInfinity = __builtin_inff();

// Copies a row to `to` as float32, padded with -inf to a multiple of 16; returns its largest value.
inline float load_row(const void* logits, bool is_bf16, int64_t offset, int64_t stride, int64_t size, float* to) {
  const float* floats = static_cast<const float*>(logits) + offset;
  const uint16_t* halves = static_cast<const uint16_t*>(logits) + offset;
  const int64_t whole = stride == 1 ? size / SIMD_LANES * SIMD_LANES : 0;
  Float largest = splat(-kInfinity);
  for (int64_t c = 0; c < whole; c += SIMD_LANES) {
    const Float x = is_bf16 ? load_bf16(halves + c) : load(floats + c);
    store(to + c, x);
    largest = max(x, largest);
  }
  for (int64_t c = whole; c < size; ++c) {
    const uint32_t bits = is_bf16 ? static_cast<uint32_t>(halves[c * stride]) << 16 : 0;
    __builtin_memcpy(to + c, is_bf16 ? static_cast<const void*>(&bits) : floats + c * stride, sizeof(float));
  }
  for (int64_t c = size; c % 16; ++c) to[c] = -kInfinity;
  for (int64_t c = whole; c < size; c += SIMD_LANES) largest = max(load(to + c), largest);
  return max(largest);
}

}  // namespace
