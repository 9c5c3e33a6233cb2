#include "encode_histories.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa.h"
#include "packed.h"
#include "ranges.h"
#include "threads.h"

namespace reg4rec {

DECLARE_FOR_ISAS(void encode_users(const Encoder& encoder, int64_t begin, int64_t end, const LayersScratch& scratch);)

namespace {

constexpr int64_t kMostRows = 64;  // of whole users that share one pass over the weights

std::vector<EncoderLayers> take_blocks(const EncodeHistories& args, PackedWeights& packed) {
  const int64_t width = args.width;
  std::vector<EncoderLayers> blocks;
  for (int64_t n = 0; n < args.num_blocks; ++n) {
    blocks.push_back({packed.layer(width, 3 * width), packed.layer(width, width), packed.layer(width, args.ffn_width),
                      packed.layer(args.ffn_width, width), packed.norm(width), packed.norm(width)});
  }
  return blocks;
}

std::vector<int64_t> find_firsts(const EncodeHistories& args) {
  // the memory rotates the start's keys by length + 1, the number of the next item
  const int64_t longest = args.num_positions - (args.memory_width > 0 ? 2 : 1);
  check_dense<1>("encode_histories: length_B", args.lengths, {args.num_users}, 0, longest);
  std::vector<int64_t> firsts{0};
  for (int64_t user = 0; user < args.num_users; ++user) {
    firsts.push_back(firsts.back() + 1 + args.lengths[user] * args.slots_per_item);
  }
  if (firsts.back() != args.num_slots) {
    throw std::invalid_argument("encode_histories: x_XD must have " + std::to_string(firsts.back()) +
                                " slots by these lengths, found " + std::to_string(args.num_slots));
  }
  return firsts;
}

// The first user of each piece, then num_users. A piece has at most `most_rows` rows, or one user.
std::vector<int64_t> cut(const std::vector<int64_t>& firsts, int64_t most_rows) {
  std::vector<int64_t> pieces{0};
  const int64_t num_users = static_cast<int64_t>(firsts.size()) - 1;
  for (int64_t user = 1; user < num_users; ++user) {
    if (firsts[user + 1] - firsts[pieces.back()] > most_rows) pieces.push_back(user);
  }
  pieces.push_back(num_users);
  return pieces;
}

}  // namespace

void encode_histories_cpu(const EncodeHistories& args, int num_threads) {
  const std::vector<int64_t> firsts = find_firsts(args);
  if (args.num_users == 0) return;
  PackedWeights packed{static_cast<const char*>(args.weights), args.is_bf16};
  const std::vector<EncoderLayers> blocks = take_blocks(args, packed);
  const int64_t threads = std::max(num_threads, 1), share = (args.num_slots + threads - 1) / threads;
  const Encoder encoder{args, blocks.data(), packed.layer(args.width, args.memory_width), firsts.data(),
                        head_scale(args.width, args.num_heads)};
  const auto encode = FOR_ISA(current_isa(), encode_users);
  const std::vector<int64_t> pieces = cut(firsts, std::min(share, kMostRows));
  parallel_for(num_threads, static_cast<int64_t>(pieces.size()) - 1, 1, [&](int64_t begin, int64_t end) {
    int64_t rows = 0, slots = 0;
    for (int64_t n = begin; n < end; ++n) rows = std::max(rows, firsts[pieces[n + 1]] - firsts[pieces[n]]);
    for (int64_t n = pieces[begin]; n < pieces[end]; ++n) slots = std::max(slots, firsts[n + 1] - firsts[n]);
    with_scratch(args, rows, slots, slots, loose_panels(args.memory_width), [&](const LayersScratch& scratch) {
      for (int64_t n = begin; n < end; ++n) encode(encoder, pieces[n], pieces[n + 1], scratch);
    });
  });
}

}  // namespace reg4rec
