// Attention of each path of a search to its own steps: arguments and entry point (definition: kernels/path_attention).
#pragma once

#include <cstdint>

namespace reg4rec {

struct PathAttention {
  int64_t num_users, num_paths, num_heads, width, num_steps;  // width of a head, at most kMostSteps steps
  int64_t num_rows;                                           // of each step
  const void* q;
  int64_t q_strides[3];  // of user, path and head, in elements; channels lie side by side
  const void* keys;
  int64_t key_strides[4];  // of user, step, row and head
  const void* values;
  int64_t value_strides[4];
  bool is_bf16;         // else float32, as the result
  const int64_t* rows;  // users x paths x steps
  void* mixed;          // users x paths x heads x width
};

constexpr int64_t kMostSteps = 64;

void path_attention_cpu(const PathAttention& args, int num_threads);

}  // namespace reg4rec
