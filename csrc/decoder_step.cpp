#include "decoder_step.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "isa.h"
#include "packed.h"
#include "ranges.h"
#include "threads.h"

namespace reg4rec {

DECLARE_FOR_ISAS(void decoder_step_rows(const DecoderStep& args, const DecoderLayers* blocks, const DecoderEnds& ends,
                                        float scale, int64_t begin, int64_t end, const DecoderScratch& scratch);)

namespace {

using Rows = void (*)(const DecoderStep&, const DecoderLayers*, const DecoderEnds&, float, int64_t, int64_t,
                      const DecoderScratch&);

struct Context {
  const DecoderStep& args;
  std::vector<DecoderLayers> blocks;
  DecoderEnds ends;
  Rows rows;
  float scale;
  int64_t rows_at_once;
};

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

DecoderScratch scratch_of(const DecoderStep& args, int64_t rows, Parts& parts) {
  return {parts.take(rows * row_width(args.width, args.ffn_width)),
          parts.attention(rows, most_keys(args), args.width / args.num_heads),
          parts.halves(args.is_bf16 ? rows * wide_row(args.width, args.ffn_width) : 0),
          parts.take(rows * std::max(loose_panels(args.num_tokens), loose_panels(args.num_categories)))};
}

void run_range(void* context, int64_t begin, int64_t end) {
  const Context& c = *static_cast<Context*>(context);
  const int64_t at_once = c.rows_at_once, most = std::min(end - begin, at_once);
  const auto lay_out = [&](Parts& parts) { return scratch_of(c.args, most, parts); };
  with_scratch(lay_out, [&](const DecoderScratch& scratch) {
    for (; begin < end; begin += at_once) {
      c.rows(c.args, c.blocks.data(), c.ends, c.scale, begin, std::min(begin + at_once, end), scratch);
    }
  });
}

// How many rows share one pass over the weights: of whole users, or equal parts of a user's, so that each history is
// loaded for as many as can be. Their states stay in the second-level cache beside a layer's weights, which tiles read
// so fast that fewer rows are better.
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
  std::vector<DecoderLayers> blocks = take_blocks(args, packed);
  Context context{args,
                  std::move(blocks),
                  take_ends(args, packed),
                  FOR_ISA(current_isa(), decoder_step_rows),
                  head_scale(args.width, args.num_heads),
                  rows_at_once(args)};
  const int64_t rows = args.num_users * args.num_paths, threads = std::max(num_threads, 1);
  const int64_t grain = std::clamp<int64_t>((rows + threads - 1) / threads, 1, context.rows_at_once);
  parallel_for(num_threads, rows, grain, run_range, &context);
}

}  // namespace reg4rec
