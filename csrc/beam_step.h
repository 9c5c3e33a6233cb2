// One step of beam search over unordered tokens: arguments and entry point (definition: kernels/beam_step).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "token_index.h"

namespace reg4rec {

// A tensor of Python's: null if there is none, strides in elements.
template <typename T, size_t N>
struct View {
  T* data;
  std::array<int64_t, N> strides;

  template <typename... At>
  int64_t offset(At... at) const {
    static_assert(sizeof...(At) <= N, "more indices than axes");
    int64_t sum = 0;
    size_t axis = 0;
    ((sum += at * strides[axis++]), ...);
    return sum;
  }
  template <typename... At>
  auto& operator()(At... at) const {
    return data[offset(at...)];
  }
};

struct BeamStep {
  int64_t batch, num_paths, num_codebooks, codebook_size, num_items, num_excluded;
  int64_t num_beams, width;  // children kept: beams and spares
  View<const void, 4> logits;
  bool is_bf16;  // else float32
  View<const float, 2> scores;
  View<const int64_t, 3> tokens;
  View<const float, 2> js;
  float threshold;
  View<const int64_t, 2> exclude;
  bool renormalize;  // softmax over the tokens that a path may take, else over all of the codebook
  TokenIndex index;
  const int32_t* counts;  // items of each token
  // results, contiguous
  int64_t* parent;
  int64_t* token;
  float* best_scores;
  bool* fallback;
};

void beam_step_cpu(const BeamStep& args, int num_threads);

}  // namespace reg4rec
