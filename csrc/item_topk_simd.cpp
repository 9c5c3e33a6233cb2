// The scores of a tile of items, compiled once per instruction set.
#include "item_topk.h"
#include "simd.h"

namespace reg4rec::SIMD_NAMESPACE {

using namespace topk;

// Users in the lanes: a row of the table, (num_books, num_codes, kUsers), is one token's log-probability for each user.
void score_users(const float* table, int64_t num_codes, const Tile& tile, Best* best, float* thresholds) {
  constexpr int kVectors = kUsers / SIMD_LANES, kItems = 4 / kVectors;
  for (int64_t i = 0; i < tile.num_items; i += kItems) {
    Float scores[kItems][kVectors];
    for (int j = 0; j < kItems; ++j) {
      for (int v = 0; v < kVectors; ++v) scores[j][v] = splat(0);
    }
    for (int64_t m = 0; m < tile.num_books; ++m) {
      const float* book = table + m * num_codes * kUsers;
      const int32_t* codes = tile.codes + m * kTile + i;
      for (int j = 0; j < kItems; ++j) {
        for (int v = 0; v < kVectors; ++v) scores[j][v] += load(book + codes[j] + v * SIMD_LANES);
      }
    }
    uint32_t above[kItems], any = 0;
    for (int j = 0; j < kItems; ++j) {
      above[j] = 0;
      for (int v = 0; v < kVectors; ++v) {
        above[j] |= lanes_above(scores[j][v], load(thresholds + v * SIMD_LANES)) << v * SIMD_LANES;
      }
      any |= above[j];
    }
    if (__builtin_expect(any != 0, 0)) {
      for (int j = 0; j < kItems && i + j < tile.num_items; ++j) {
        float of_users[kUsers];
        for (int v = 0; v < kVectors; ++v) store(of_users + v * SIMD_LANES, scores[j][v]);
        for (uint32_t lanes = above[j]; lanes != 0; lanes &= lanes - 1) {
          const int user = __builtin_ctz(lanes);
          keep(best[user], of_users[user], tile.first + i + j);
          thresholds[user] = best[user].threshold;
        }
      }
    }
  }
}

// Items in the lanes: `row` is the log-probabilities of one user.
void score_items(const float* row, int64_t stride_m, const Tile& tile, Best& best) {
  for (int64_t i = 0; i < tile.num_items; i += SIMD_LANES) {
    Float scores = splat(0);
    for (int64_t m = 0; m < tile.num_books; ++m) scores += gather(row + m * stride_m, tile.codes + m * kTile + i);
    uint32_t lanes = lanes_above(scores, splat(best.threshold));
    if (__builtin_expect(lanes != 0, 0)) {
      float of_items[SIMD_LANES];
      store(of_items, scores);
      for (; lanes != 0; lanes &= lanes - 1) {
        const int64_t j = __builtin_ctz(lanes);
        if (i + j < tile.num_items) keep(best, of_items[j], tile.first + i + j);
      }
    }
  }
}

}  // namespace reg4rec::SIMD_NAMESPACE
