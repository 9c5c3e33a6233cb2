// Best k items of each user by inner products of state and item vector: arguments, entry point, and what the units per
// instruction set share (definition: kernels/score_topk).
#pragma once

#include <cstdint>

#include "call.h"

namespace reg4rec {

#define SCORE_TOPK_FIELDS(FIELD)                                                                  \
  FIELD(int64_t, num_users)                                                                       \
  FIELD(int64_t, num_items)                                                                       \
  FIELD(int64_t, width)                                                                           \
  FIELD(int64_t, k)                                                                               \
  FIELD(const float*, states)     /* users x width */                                             \
  FIELD(const float*, rows)       /* items x width */                                             \
  FIELD(const uint8_t*, panels)   /* panels x groups of 4 channels x 32 items x 4, codes + 128 */ \
  FIELD(const float*, scales)     /* the factor of an item's codes */                             \
  FIELD(const float*, errors)     /* at least |row - its copy| */                                 \
  FIELD(const float*, norms)      /* at least |copy| */                                           \
  FIELD(double, largest)          /* length of the longest row */                                 \
  FIELD(const uint32_t*, allowed) /* one bit per item; null: all are */                           \
  FIELD(int64_t, words_of_user)   /* 0: the users share the bits */                               \
  FIELD(const int64_t*, seen)     /* users x num_seen, -1 for none */                             \
  FIELD(int64_t, num_seen)                                                                        \
  FIELD(int64_t, scores_seen) /* whether seen items are scored, with the bias, or left out */     \
  FIELD(double, seen_bias)                                                                        \
  FIELD(const int32_t*, codes) /* items x tables */                                               \
  FIELD(const float*, tables)  /* users x tables x size */                                        \
  FIELD(int64_t, num_tables)                                                                      \
  FIELD(int64_t, table_size)                                                                      \
  FIELD(double*, best_scores) /* users x k, results */                                            \
  FIELD(int64_t*, best_rows)

DEFINE_CALL(ScoreTopk, SCORE_TOPK_FIELDS)

void score_topk_cpu(const ScoreTopk& args, int num_threads);

namespace scoring {

constexpr int64_t kItems = 32, kChannels = 4;

// Four channels of a state, the first in the lowest byte.
using Digits = int32_t;

// One user's state for the scan. An item's score is
//   scale * item scale * (sum of products - offset) + its tables' values
// up to an error of |state| * item error + |state - its digits| * item norm + slack, all rounded up.
struct Query {
  const Digits* digits;  // ceil(width / 4)
  float offset, scale, item_error, own_error, slack;
  const float* tables;
  const uint32_t* allowed;
  float threshold;  // the score that an item must be able to reach
  void* found;
};

// Adds an item that may reach the threshold.
void keep(Query& query, int64_t item, float score, float error);

}  // namespace scoring

}  // namespace reg4rec
