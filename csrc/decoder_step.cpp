#include "decoder_step.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "packed.h"
#include "ranges.h"
#include "threads.h"

namespace reg4rec {

DECLARE_FOR_ISAS(void decoder_step_rows(const DecoderStep& args, const DecoderLayers* blocks, const DecoderEnds& ends,
                                        float scale, int64_t begin, int64_t end, const LayersScratch& scratch);)

namespace {

std::vector<DecoderLayers> take_blocks(const DecoderStep& args, PackedWeights& packed) {
  const int64_t width = args.width;
  std::vector<DecoderLayers> blocks;
  for (int64_t n = 0; n < args.num_blocks; ++n) {
    blocks.push_back({packed.layer(width, 3 * width), packed.layer(width, width), packed.layer(width, width),
                      packed.layer(width, width), packed.layer(width, args.ffn_width),
                      packed.layer(args.ffn_width, width), packed.norm(width), packed.norm(width), packed.norm(width)});
  }
  return blocks;
}

DecoderEnds take_ends(const DecoderStep& args, PackedWeights& packed) {
  const int64_t width = args.width;
  return {packed.layer(width, args.refines ? width : 0), packed.layer(width, args.num_tokens),
          packed.layer(width, args.num_categories), packed.norm(width)};
}

// How many rows share one pass over the weights: those of whole users, or an equal part of one user's, so that a
// history is loaded for many rows. Their states and a layer's weights must fit into the second-level cache together;
// tiles read weights so fast that fewer rows are better.
int64_t rows_at_once(const DecoderStep& args) {
  const int64_t paths = std::max<int64_t>(args.num_paths, 1), most = args.is_bf16 ? 32 : 64;
  if (paths <= most) return most / paths * paths;
  const int64_t parts = (paths + most - 1) / most;
  return (paths + parts - 1) / parts;
}

}  // namespace

void decoder_step_cpu(const DecoderStep& args, int num_threads) {
  const int64_t users = args.num_users, paths = args.num_paths;
  check_dense<2>("decoder_step: row_BP", args.input_rows, {users, paths}, 0, args.num_inputs - 1);
  check_dense<3>("decoder_step: rows_BPS", args.rows, {users, paths, args.num_steps}, 0, args.num_rows - 1);
  for (int64_t user = 0; user < users; ++user) {
    const bool* visible = args.visible + user * args.memory_size;
    if (std::none_of(visible, visible + args.memory_size, [](bool seen) { return seen; })) {
      throw std::invalid_argument("decoder_step: visible_BJ must show each user a slot, user " + std::to_string(user) +
                                  " sees none");
    }
  }
  PackedWeights packed{static_cast<const char*>(args.weights), args.is_bf16};
  const std::vector<DecoderLayers> blocks = take_blocks(args, packed);
  const DecoderEnds ends = take_ends(args, packed);
  const auto step_rows = FOR_ISA(current_isa(), decoder_step_rows);
  const float scale = head_scale(args.width, args.num_heads);
  const int64_t rows = users * paths, threads = std::max(num_threads, 1), at_once = rows_at_once(args);
  const int64_t grain = std::clamp<int64_t>((rows + threads - 1) / threads, 1, at_once);
  parallel_for(num_threads, rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t most = std::min(end - begin, at_once);
    const int64_t outputs = std::max(loose_panels(args.num_tokens), loose_panels(args.num_categories));
    with_scratch(args, most, most, most_keys(args), outputs, [&](const LayersScratch& scratch) {
      for (int64_t from = begin; from < end; from += at_once) {
        step_rows(args, blocks.data(), ends, scale, from, std::min(from + at_once, end), scratch);
      }
    });
  });
}

}  // namespace reg4rec
