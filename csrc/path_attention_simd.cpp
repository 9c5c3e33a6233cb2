// Paths of path_attention in float32, compiled once per instruction set.
#include "bf16.h"
#include "path_attention.h"
#include "simd.h"

namespace {

using reg4rec::kMostSteps;
using reg4rec::PathAttention;

struct Floats32 {
  static Float vector(const void* from, int64_t at) { return load(static_cast<const float*>(from) + at); }
  static float scalar(const void* from, int64_t at) { return static_cast<const float*>(from)[at]; }
  static void put(void* to, int64_t at, float x) { static_cast<float*>(to)[at] = x; }
  static void put(void* to, int64_t at, Float x) { store(static_cast<float*>(to) + at, x); }
};

struct Floats16 {
  static Float vector(const void* from, int64_t at) { return load_bf16(static_cast<const uint16_t*>(from) + at); }
  static float scalar(const void* from, int64_t at) {
    return reg4rec::float_of_bf16(static_cast<const uint16_t*>(from)[at]);
  }
  static void put(void* to, int64_t at, float x) { static_cast<uint16_t*>(to)[at] = reg4rec::bf16_of_float(x); }
  static void put(void* to, int64_t at, Float x) {
    const Uint bits = (Uint)x, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const Half half = __builtin_convertvector(x == x ? rounded : Uint{} + 0x7fc0, Half);
    __builtin_memcpy(static_cast<uint16_t*>(to) + at, &half, sizeof half);
  }
};

template <typename Numbers>
inline float dot(const void* a, int64_t a_at, const void* b, int64_t b_at, int64_t size) {
  Float total = splat(0);
  int64_t c = 0;
  for (; c + SIMD_LANES <= size; c += SIMD_LANES) {
    total += bounded(Numbers::vector(a, a_at + c)) * bounded(Numbers::vector(b, b_at + c));
  }
  float rest = sum(total);
  for (; c < size; ++c) rest += bounded(Numbers::scalar(a, a_at + c)) * bounded(Numbers::scalar(b, b_at + c));
  return rest;
}

template <typename Numbers>
void attend(const PathAttention& args, int64_t begin, int64_t end, float scale) {
  float weights[kMostSteps] = {};
  int64_t keys[kMostSteps], values[kMostSteps];
  for (int64_t n = begin; n < end; ++n) {
    const int64_t user = n / args.num_paths, path = n % args.num_paths;
    const int64_t* rows = args.rows + n * args.num_steps;
    for (int64_t s = 0; s < args.num_steps; ++s) {
      keys[s] = args.keys.offset(user, s, rows[s]);
      values[s] = args.values.offset(user, s, rows[s]);
    }
    for (int64_t h = 0; h < args.num_heads; ++h) {
      const int64_t q = args.q.offset(user, path, h);
      for (int64_t s = 0; s < args.num_steps; ++s) {
        weights[s] =
            scale * dot<Numbers>(args.q.data, q, args.keys.data, keys[s] + h * args.keys.strides[3], args.width);
      }
      softmax(weights, args.num_steps);
      const int64_t to = (n * args.num_heads + h) * args.width, from = h * args.values.strides[3];
      int64_t c = 0;
      for (; c + SIMD_LANES <= args.width; c += SIMD_LANES) {
        Float mixed = splat(0);
        for (int64_t s = 0; s < args.num_steps; ++s) {
          mixed += weights[s] * bounded(Numbers::vector(args.values.data, values[s] + from + c));
        }
        Numbers::put(args.mixed, to + c, mixed);
      }
      for (; c < args.width; ++c) {
        float mixed = 0;
        for (int64_t s = 0; s < args.num_steps; ++s) {
          mixed += weights[s] * bounded(Numbers::scalar(args.values.data, values[s] + from + c));
        }
        Numbers::put(args.mixed, to + c, mixed);
      }
    }
  }
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

void path_attention_paths(const PathAttention& args, int64_t begin, int64_t end, float scale) {
  if (args.q.is_bf16()) return attend<Floats16>(args, begin, end, scale);
  attend<Floats32>(args, begin, end, scale);
}

}  // namespace reg4rec::SIMD_NAMESPACE
