// The scan of some panels of items for some users, and exact scores, compiled once per instruction set.
#include "amx.h"
#include "score_topk.h"
#include "simd.h"

namespace {

using namespace reg4rec::scoring;
using reg4rec::ScoreTopk;

constexpr int kVectors = kItems / SIMD_LANES;
constexpr int kUsersAtOnce = SIMD_LANES == 16 ? 8 : SIMD_LANES == 8 ? 3 : 1;  // sums fit into registers

// sums + the products of four channels of SIMD_LANES items and of a state. The state's digits lie in -63..63, so that
// two products fit into the 16 bits in which AVX2 adds them.
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

// The sums of a user's table entries for the items of a panel.
inline void add_tables(const ScoreTopk& args, const float* tables, int64_t first, int64_t size, float* to) {
  for (int64_t i = 0; i < size; ++i) {
    const int32_t* codes = args.codes + (first + i) * args.num_tables;
    to[i] = 0;
    for (int64_t t = 0; t < args.num_tables; ++t) to[i] += tables[t * args.table_size + codes[t]];
  }
}

// Scales and bounds of a panel's items, zeros after the last one.
struct Numbers {
  const float *scale, *error, *norm;
  int64_t size;
  float filled[3][kItems];

  Numbers(const ScoreTopk& args, int64_t panel) {
    const int64_t first = panel * kItems;
    scale = args.scales + first, error = args.errors + first, norm = args.norms + first;
    size = args.num_items - first < kItems ? args.num_items - first : kItems;
    if (size < kItems) scale = fill(scale, 0), error = fill(error, 1), norm = fill(norm, 2);
  }
  Numbers(const Numbers&) = delete;

  const float* fill(const float* from, int part) {
    for (int64_t i = 0; i < kItems; ++i) filled[part][i] = i < size ? from[i] : 0;
    return filled[part];
  }
};

// Keeps the open items of a panel that may reach a user's threshold, given the sums of their products.
inline void judge(const ScoreTopk& args, int64_t first, const Numbers& numbers, const Int* sums, uint32_t open,
                  Query& query) {
  float own[kItems] = {}, score[kItems], off[kItems];
  if (query.tables != nullptr) add_tables(args, query.tables, first, numbers.size, own);
  uint32_t below = 0;
  for (int v = 0; v < kVectors; ++v) {
    const int at = v * SIMD_LANES;
    const Float sum = __builtin_convertvector(sums[v], Float) - query.offset;
    const Float found = sum * (load(numbers.scale + at) * query.scale) + load(own + at);
    const Float bound =
        load(numbers.error + at) * query.item_error + load(numbers.norm + at) * query.own_error + query.slack;
    store(score + at, found);
    store(off + at, bound);
    below |= lanes_above(splat(query.threshold), found + bound) << at;  // a NaN is not below, so its item is kept
  }
  for (uint32_t lanes = ~below & open; __builtin_expect(lanes != 0, 0); lanes &= lanes - 1) {
    const int i = __builtin_ctz(lanes);
    keep(query, first + i, score[i], off[i]);
  }
}

// Which items of a panel any user may get.
inline uint32_t open_to_all(const ScoreTopk& args, int64_t panel) {
  const int64_t left = args.num_items - panel * kItems;
  const uint32_t there = left < kItems ? (uint32_t{1} << left) - 1 : ~uint32_t{0};
  return args.allowed != nullptr && args.words_of_user == 0 ? there & args.allowed[panel] : there;
}

inline uint32_t open_to(const Query& query, int64_t panel, uint32_t shared) {
  return query.allowed != nullptr ? shared & query.allowed[panel] : shared;
}

template <int U>
inline void scan_panel(const ScoreTopk& args, int64_t panel, Query* queries) {
  const int64_t fours = (args.width + kChannels - 1) / kChannels;
  const uint32_t shared = open_to_all(args, panel);
  uint32_t open[U], any = 0;
  for (int u = 0; u < U; ++u) any |= open[u] = open_to(queries[u], panel, shared);
  if (any == 0) return;
  Int sums[U][kVectors];
  for (int u = 0; u < U; ++u) {
    for (int v = 0; v < kVectors; ++v) sums[u][v] = Int{};
  }
  const uint8_t* items = args.panels + panel * fours * kItems * kChannels;
  for (int64_t c = 0; c < fours; ++c, items += kItems * kChannels) {
    for (int v = 0; v < kVectors; ++v) {
      for (int u = 0; u < U; ++u) {
        sums[u][v] = add_products(sums[u][v], items + v * SIMD_LANES * kChannels, queries[u].digits[c]);
      }
    }
  }
  const Numbers numbers(args, panel);
  for (int u = 0; u < U; ++u) judge(args, panel * kItems, numbers, sums[u], open[u], queries[u]);
}

template <int U>
inline void scan_users(const ScoreTopk& args, int64_t begin, int64_t end, Query* queries, int64_t num_queries) {
  int64_t u = 0;
  for (; u + U <= num_queries; u += U) {
    for (int64_t panel = begin; panel < end; ++panel) scan_panel<U>(args, panel, queries + u);
  }
  if constexpr (U > 1) scan_users<U / 2>(args, begin, end, queries + u, num_queries - u);
}

}  // namespace

namespace reg4rec::SIMD_NAMESPACE {

void score_panels(const ScoreTopk& args, int64_t begin, int64_t end, scoring::Query* queries, int64_t num_queries) {
  scan_users<kUsersAtOnce>(args, begin, end, queries, num_queries);
}

#if SIMD_LANES == 16
// The same with matrix tiles; a width of whole tiles only. The users' digits are contiguous.
void score_panels_by_tiles(const ScoreTopk& args, int64_t begin, int64_t end, scoring::Query* queries,
                           int64_t num_queries) {
  const int64_t fours = (args.width + kChannels - 1) / kChannels;
  alignas(64) int32_t sums[kTileRows * kItems];
  for (int64_t u = 0; u < num_queries; u += kTileRows) {
    const int64_t users = num_queries - u < kTileRows ? num_queries - u : kTileRows;
    begin_products(users);
    for (int64_t panel = begin; panel < end; ++panel) {
      const uint32_t shared = open_to_all(args, panel);
      if (shared == 0) continue;
      add_up_products(queries[u].digits, args.panels + panel * fours * kItems * kChannels, fours, sums);
      const Numbers numbers(args, panel);
      for (int64_t n = 0; n < users; ++n) {
        Int own[kVectors];
        __builtin_memcpy(own, sums + n * kItems, sizeof own);
        judge(args, panel * kItems, numbers, own, open_to(queries[u + n], panel, shared), queries[u + n]);
      }
    }
    end_products();
  }
}
#endif

// Adds the second half of the products to the first, and so on, as kernels/folding.py does. Products are exact in
// float64, so the compiler may fuse them with the sums. `scratch` has room for `half` numbers.
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
