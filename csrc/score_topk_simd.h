// The scan of some panels of items for some users, and exact scores, for the instruction set of the including unit.
#pragma once

#include "score_topk.h"
#include "simd.h"

namespace {

using namespace reg4rec::scoring;
using reg4rec::ScoreTopk;

constexpr int kVectors = kPanel / SIMD_LANES;
constexpr int kUsersAtOnce = SIMD_LANES == 16 ? 8 : SIMD_LANES == 8 ? 2 : 1;  // sums fit into registers

// sums + the products of SIMD_LANES items' four channels and the state's, which is from -63 to 63: so that two products
// fit into the 16 bits that AVX2 adds them up in.
inline Int add_products(Int sums, const uint8_t* items, Digits digits) {
#if SIMD_LANES == 16
  return (Int)_mm512_dpbusd_epi32((__m512i)sums, _mm512_loadu_si512(items), _mm512_set1_epi32(digits));
#elif SIMD_LANES == 8
  const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(items));
  const __m256i pairs = _mm256_maddubs_epi16(some, _mm256_set1_epi32(digits));
  return sums + (Int)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
  for (int lane = 0; lane < SIMD_LANES; ++lane) {
    for (int c = 0; c < kChannels; ++c) {
      sums[lane] += items[lane * kChannels + c] * static_cast<int8_t>(static_cast<uint32_t>(digits) >> 8 * c);
    }
  }
  return sums;
#endif
}

// What the tables of a user say of the items of a panel.
inline void add_tables(const ScoreTopk& args, const float* tables, int64_t first, int64_t size, float* to) {
  for (int64_t i = 0; i < size; ++i) {
    const int32_t* codes = args.codes + (first + i) * args.num_tables;
    to[i] = 0;
    for (int64_t t = 0; t < args.num_tables; ++t) to[i] += tables[t * args.table_size + codes[t]];
  }
}

template <int U>
inline void scan_panel(const ScoreTopk& args, int64_t panel, uint32_t shared, Query* queries) {
  const int64_t fours = (args.width + kChannels - 1) / kChannels, first = panel * kPanel;
  uint32_t open[U], any = 0;
  for (int u = 0; u < U; ++u) any |= open[u] = queries[u].allowed ? shared & queries[u].allowed[panel] : shared;
  if (any == 0) return;
  Int sums[U][kVectors];
  for (int u = 0; u < U; ++u) {
    for (int v = 0; v < kVectors; ++v) sums[u][v] = Int{};
  }
  const uint8_t* items = args.panels + panel * fours * kPanel * kChannels;
  for (int64_t c = 0; c < fours; ++c, items += kPanel * kChannels) {
    for (int v = 0; v < kVectors; ++v) {
      for (int u = 0; u < U; ++u) {
        sums[u][v] = add_products(sums[u][v], items + v * SIMD_LANES * kChannels, queries[u].digits[c]);
      }
    }
  }
  // numbers of items behind the last one are zeros
  float scales[kPanel] = {}, errors[kPanel] = {}, norms[kPanel] = {};
  const int64_t size = args.num_items - first < kPanel ? args.num_items - first : kPanel;
  const float *scale = args.scales + first, *error = args.errors + first, *norm = args.norms + first;
  if (size < kPanel) {
    __builtin_memcpy(scales, scale, size * sizeof(float));
    __builtin_memcpy(errors, error, size * sizeof(float));
    __builtin_memcpy(norms, norm, size * sizeof(float));
    scale = scales, error = errors, norm = norms;
  }
  for (int u = 0; u < U; ++u) {
    Query& query = queries[u];
    float own[kPanel] = {}, score[kPanel], off[kPanel];
    if (query.tables != nullptr) add_tables(args, query.tables, first, size, own);
    uint32_t below = 0;
    for (int v = 0; v < kVectors; ++v) {
      const int at = v * SIMD_LANES;
      const Float sum = __builtin_convertvector(sums[u][v], Float) - query.offset;
      const Float found = sum * (load(scale + at) * query.scale) + load(own + at);
      const Float bound = load(error + at) * query.item_error + load(norm + at) * query.own_error + query.slack;
      store(score + at, found);
      store(off + at, bound);
      below |= lanes_above(splat(query.threshold), found + bound) << at;  // not where it is no number
    }
    uint32_t lanes = ~below & open[u];
    if (__builtin_expect(lanes == 0, 1)) continue;
    for (; lanes != 0; lanes &= lanes - 1) {
      const int i = __builtin_ctz(lanes);
      keep(query, first + i, score[i], off[i]);
    }
  }
}

template <int U>
inline void scan_users(const ScoreTopk& args, int64_t begin, int64_t end, Query* queries, int64_t num_queries) {
  const int64_t rest = args.num_items % kPanel, last = args.num_items / kPanel;
  int64_t u = 0;
  for (; u + U <= num_queries; u += U) {
    for (int64_t panel = begin; panel < end; ++panel) {
      uint32_t shared = panel == last ? (uint32_t{1} << rest) - 1 : ~uint32_t{0};
      if (args.allowed != nullptr && args.words_of_user == 0) shared &= args.allowed[panel];
      scan_panel<U>(args, panel, shared, queries + u);
    }
  }
  if constexpr (U > 1) scan_users<U / 2>(args, begin, end, queries + u, num_queries - u);
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

void score_panels(const ScoreTopk& args, int64_t begin, int64_t end, scoring::Query* queries, int64_t num_queries) {
  scan_users<kUsersAtOnce>(args, begin, end, queries, num_queries);
}

// The halves of the products are folded upon one another, as the definition does; they need not be rounded themselves,
// so it is the same whether the compiler fuses them with the sums. `scratch` has room for half a power of 2.
double exact_dot(const float* a, const float* b, int64_t width, int64_t half, double* scratch) {
  const int64_t both = width - half;
  for (int64_t c = 0; c < both; ++c) {
    scratch[c] = static_cast<double>(a[c]) * b[c] + static_cast<double>(a[c + half]) * b[c + half];
  }
  for (int64_t c = both < 0 ? 0 : both; c < half; ++c) scratch[c] = c < width ? static_cast<double>(a[c]) * b[c] : 0.0;
  for (int64_t size = half / 2; size > 0; size /= 2) {
    for (int64_t c = 0; c < size; ++c) scratch[c] += scratch[c + size];
  }
  return scratch[0];
}

}  // namespace reg4rec::SIMD_NAMESPACE
