#include "encoder_memory.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "isa.h"
#include "packed.h"
#include "threads.h"

namespace reg4rec {

DECLARE_FOR_ISAS(void encoder_memory_users(const EncoderMemory& args, const EncoderLayers* blocks, const Layer& memory,
                                           float scale, int64_t begin, int64_t end, const EncoderScratch& scratch);)

namespace {

using Users = void (*)(const EncoderMemory&, const EncoderLayers*, const Layer&, float, int64_t, int64_t,
                       const EncoderScratch&);

constexpr int64_t kRows = 32;  // of whole users, which share one pass over the weights

struct Context {
  const EncoderMemory& args;
  std::vector<EncoderLayers> blocks;
  Layer memory;
  Users users;
  float scale;
  int64_t users_at_once;
};

std::vector<EncoderLayers> take_blocks(const EncoderMemory& args, PackedWeights& packed) {
  const int64_t width = args.width;
  std::vector<EncoderLayers> blocks;
  for (int64_t n = 0; n < args.num_blocks; ++n) {
    blocks.push_back({packed.layer(width, 3 * width), packed.layer(width, width), packed.layer(width, args.ffn_width),
                      packed.layer(args.ffn_width, width), packed.norm(width), packed.norm(width)});
  }
  return blocks;
}

EncoderScratch scratch_of(const EncoderMemory& args, int64_t users, Parts& parts) {
  return {parts.take(users * args.num_slots * row_width(args.width, args.ffn_width)),
          parts.attention(args.num_slots, args.num_slots, args.width / args.num_heads),
          parts.halves(args.is_bf16 ? users * args.num_slots * wide_row(args.width, args.ffn_width) : 0),
          parts.take(users * args.num_slots * loose_panels(args.memory_width))};
}

void run_range(void* context, int64_t begin, int64_t end) {
  const Context& c = *static_cast<Context*>(context);
  const auto task = [&](int64_t first, int64_t last, const EncoderScratch& scratch) {
    c.users(c.args, c.blocks.data(), c.memory, c.scale, first, last, scratch);
  };
  in_pieces(c.args, begin, end, c.users_at_once, scratch_of, task);
}

}  // namespace

void encoder_memory_cpu(const EncoderMemory& args, int num_threads) {
  const int64_t at_once = std::max<int64_t>(1, kRows / std::max<int64_t>(args.num_slots, 1));
  PackedWeights packed{static_cast<const char*>(args.weights), args.is_bf16};
  std::vector<EncoderLayers> blocks = take_blocks(args, packed);
  Context context{args,
                  std::move(blocks),
                  packed.layer(args.width, args.memory_width),
                  FOR_ISA(current_isa(), encoder_memory_users),
                  head_scale(args.width, args.num_heads),
                  at_once};
  parallel_for(num_threads, args.num_users, at_once, run_range, &context);
}

}  // namespace reg4rec
