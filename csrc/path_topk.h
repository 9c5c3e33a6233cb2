// The best items that reasoning paths lead to: arguments and entry point (definition: kernels/path_topk).
#pragma once

#include <array>
#include <cstdint>

#include "beam_step.h"
#include "token_index.h"

namespace reg4rec {

// Without logits an item has the score of its path.
struct ItemScoring {
  const float* logits;  // users x codebooks x codewords
  const float* states;  // users x width
  int64_t width;
  const float* residual;  // items x width
  View<const int64_t, 2> repeated;
  int64_t num_repeated;
  float repeat_bias;
};

struct PathTopk {
  int64_t num_users, num_paths, num_items, k;
  View<const int64_t, 3> tokens;
  View<const float, 2> scores;
  TokenIndex index;
  const int64_t* rank;
  View<const int64_t, 2> exclude;
  int64_t num_excluded;
  ItemScoring scoring;
  // results, contiguous
  float* best_scores;
  int64_t* items;
  int64_t* paths;
};

void path_topk_cpu(const PathTopk& args, int num_threads);

}  // namespace reg4rec
