#include "decoder_blocks.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "packed.h"
#include "threads.h"

namespace reg4rec {

DECLARE_FOR_ISAS(void decoder_blocks_rows(const DecoderBlocks& args, const DecoderLayers* blocks, float scale,
                                          int64_t begin, int64_t end, const DecoderScratch& scratch);)

namespace {

using Rows = void (*)(const DecoderBlocks&, const DecoderLayers*, float, int64_t, int64_t, const DecoderScratch&);

constexpr int64_t kMostRows = 32;  // their states stay in the second-level cache beside a layer's weights

struct Context {
  const DecoderBlocks& args;
  std::vector<DecoderLayers> blocks;
  Rows rows;
  float scale;
  int64_t rows_at_once;
};

std::vector<DecoderLayers> layers_of(const DecoderBlocks& args) {
  PackedWeights packed{args.weights};
  const int64_t width = args.width;
  std::vector<DecoderLayers> blocks;
  for (int64_t n = 0; n < args.num_blocks; ++n) {
    blocks.push_back({packed.layer(width, 3 * width), packed.layer(width, width), packed.layer(width, width),
                      packed.layer(width, width), packed.layer(width, args.ffn_width),
                      packed.layer(args.ffn_width, width), packed.norm(width), packed.norm(width), packed.norm(width)});
  }
  return blocks;
}

DecoderScratch scratch_of(const DecoderBlocks& args, int64_t rows, Parts& parts) {
  return {parts.take(rows * row_width(args.width, args.ffn_width)),
          parts.attention(rows, most_keys(args), args.width / args.num_heads)};
}

void run_range(void* context, int64_t begin, int64_t end) {
  const Context& c = *static_cast<Context*>(context);
  const auto task = [&](int64_t first, int64_t last, const DecoderScratch& scratch) {
    c.rows(c.args, c.blocks.data(), c.scale, first, last, scratch);
  };
  in_pieces(c.args, begin, end, c.rows_at_once, scratch_of, task);
}

// How many rows share one pass over the weights: of whole users, or equal parts of a user's, so that each history is
// loaded for as many as can be.
int64_t rows_at_once(const DecoderBlocks& args) {
  const int64_t paths = std::max<int64_t>(args.num_paths, 1);
  if (paths <= kMostRows) return kMostRows / paths * paths;
  const int64_t parts = (paths + kMostRows - 1) / kMostRows;
  return (paths + parts - 1) / parts;
}

}  // namespace

void decoder_blocks_cpu(const DecoderBlocks& args, int num_threads) {
  Context context{args, layers_of(args), FOR_ISA(current_isa(), decoder_blocks_rows),
                  head_scale(args.width, args.num_heads), rows_at_once(args)};
  const int64_t rows = args.num_users * args.num_paths, threads = std::max(num_threads, 1);
  const int64_t grain = std::clamp<int64_t>((rows + threads - 1) / threads, 1, context.rows_at_once);
  parallel_for(num_threads, rows, grain, run_range, &context);
}

}  // namespace reg4rec
