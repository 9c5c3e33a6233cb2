#include "encoder_blocks.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "packed.h"
#include "threads.h"

namespace reg4rec {

DECLARE_FOR_ISAS(void encoder_blocks_users(const EncoderBlocks& args, const EncoderLayers* blocks, float scale,
                                           int64_t begin, int64_t end, const EncoderScratch& scratch);)

namespace {

using Users = void (*)(const EncoderBlocks&, const EncoderLayers*, float, int64_t, int64_t, const EncoderScratch&);

constexpr int64_t kRows = 32;  // of whole users, which share one pass over the weights

struct Context {
  const EncoderBlocks& args;
  std::vector<EncoderLayers> blocks;
  Users users;
  float scale;
  int64_t users_at_once;
};

std::vector<EncoderLayers> layers_of(const EncoderBlocks& args) {
  PackedWeights packed{args.weights};
  const int64_t width = args.width;
  std::vector<EncoderLayers> blocks;
  for (int64_t n = 0; n < args.num_blocks; ++n) {
    blocks.push_back({packed.layer(width, 3 * width), packed.layer(width, width), packed.layer(width, args.ffn_width),
                      packed.layer(args.ffn_width, width), packed.norm(width), packed.norm(width)});
  }
  return blocks;
}

EncoderScratch scratch_of(const EncoderBlocks& args, int64_t users, Parts& parts) {
  return {parts.take(users * args.num_slots * row_width(args.width, args.ffn_width)),
          parts.attention(args.num_slots, args.num_slots, args.width / args.num_heads)};
}

void run_range(void* context, int64_t begin, int64_t end) {
  const Context& c = *static_cast<Context*>(context);
  const auto task = [&](int64_t first, int64_t last, const EncoderScratch& scratch) {
    c.users(c.args, c.blocks.data(), c.scale, first, last, scratch);
  };
  in_pieces(c.args, begin, end, c.users_at_once, scratch_of, task);
}

}  // namespace

void encoder_blocks_cpu(const EncoderBlocks& args, int num_threads) {
  const int64_t at_once = std::max<int64_t>(1, kRows / std::max<int64_t>(args.num_slots, 1));
  Context context{args, layers_of(args), FOR_ISA(current_isa(), encoder_blocks_users),
                  head_scale(args.width, args.num_heads), at_once};
  parallel_for(num_threads, args.num_users, at_once, run_range, &context);
}

}  // namespace reg4rec
