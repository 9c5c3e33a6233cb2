// Best k items of each user by the sum of their tokens' log-probabilities: arguments, entry point, and what the units
// per instruction set share (definition: kernels/item_topk).
#pragma once

#include "item_topk_call.h"

namespace reg4rec {

void item_topk_cpu(const ItemTopk& args, int num_threads);

namespace topk {

constexpr int64_t kTile = 1024;  // items whose codes are unpacked at a time
constexpr int64_t kUsers = 16;   // users in the lanes of a table

// The best of one user's items so far: keys order by score, then by lowest item. When full, they shrink to the best k
// and the threshold rises to the k-th score. The caller must pass only scores above the threshold.
struct Best {
  int64_t* keys;
  int64_t size, capacity, k;
  float threshold;
  const int64_t* excluded;  // ascending, from the next one that matters; the last one is above every item
};

// Items must come in ascending order.
void keep(Best& best, float score, int64_t item);

// Codes of consecutive items, a plane of kTile for each codebook, multiplied by the stride of the table; zero after the
// last item.
struct Tile {
  const int32_t* codes;
  int64_t first, num_items, num_books;
};

}  // namespace topk

}  // namespace reg4rec
