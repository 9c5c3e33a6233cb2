#include "encoder_blocks.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "aligned.h"
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
  const auto& [args, blocks, users, scale, at_once] = *static_cast<Context*>(context);
  const int64_t most = std::min(end - begin, at_once);
  Parts sizes{nullptr};
  scratch_of(args, most, sizes);
  AlignedFloats floats(sizes.size);
  Parts parts{floats.data()};
  const EncoderScratch scratch = scratch_of(args, most, parts);
  for (; begin < end; begin += at_once) {
    users(args, blocks.data(), scale, begin, std::min(begin + at_once, end), scratch);
  }
}

}  // namespace

void encoder_blocks_cpu(const EncoderBlocks& args, int num_threads) {
  const double head_width = static_cast<double>(args.width) / static_cast<double>(args.num_heads);
  const int64_t at_once = std::max<int64_t>(1, kRows / std::max<int64_t>(args.num_slots, 1));
  Context context{args, layers_of(args), FOR_ISA(current_isa(), encoder_blocks_users),
                  static_cast<float>(1 / std::sqrt(head_width)), at_once};
  parallel_for(num_threads, args.num_users, at_once, run_range, &context);
}

}  // namespace reg4rec
