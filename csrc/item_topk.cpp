#include "item_topk.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "aligned.h"
#include "isa.h"
#include "ranges.h"
#include "threads.h"

namespace reg4rec {

using namespace topk;

DECLARE_FOR_ISAS(void score_users(const float* table, int64_t num_codes, const Tile& tile, Best* best,
                                  float* thresholds);)
DECLARE_FOR_ISAS(void score_items(const float* row, int64_t stride_m, const Tile& tile, Best& best);)

namespace {

struct Kernels {
  void (*score_users)(const float*, int64_t, const Tile&, Best*, float*);
  void (*score_items)(const float*, int64_t, const Tile&, Best&);
};

constexpr int64_t kNoItem = std::numeric_limits<int64_t>::min();
constexpr int64_t kAboveItems = std::numeric_limits<int64_t>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kUsersAtOnce = 64;         // they share the unpacked codes
constexpr int64_t kKeysAtOnce = 1 << 22;     // of all users at once
constexpr int64_t kSmallestSlice = 1 << 15;  // items that are worth a separate slice

template <typename Value>
Value bits_as(const void* bits) {
  Value value;
  __builtin_memcpy(&value, bits, sizeof value);
  return value;
}

// Keys sort by score, then by lowest item: a float sorts as its bits do, once the lower bits of negative ones are
// flipped.
int64_t make_key(float score, int64_t item) {
  const int32_t bits = bits_as<int32_t>(&score);
  const int64_t ordered = bits < 0 ? bits ^ 0x7fffffff : bits;
  return static_cast<int64_t>(static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(item)));
}

float key_score(int64_t key) {
  const int32_t ordered = static_cast<int32_t>(key >> 32), bits = ordered < 0 ? ordered ^ 0x7fffffff : ordered;
  return bits_as<float>(&bits);
}

int64_t key_item(int64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

template <typename From, typename To>
void copy_scaled(const void* data, int64_t offset, int64_t stride, int64_t size, int64_t scale, To* to) {
  const From* from = static_cast<const From*>(data) + offset;
  for (int64_t i = 0; i < size; ++i) to[i] = static_cast<To>(from[i * stride] * scale);
}

// Copies integers from `offset` on, `stride` apart, times `scale`.
template <typename To>
void copy(const Raw& from, int64_t offset, int64_t stride, int64_t size, int64_t scale, To* to) {
  if (from.bytes == 2) copy_scaled<int16_t>(from.data, offset, stride, size, scale, to);
  if (from.bytes == 4) copy_scaled<int32_t>(from.data, offset, stride, size, scale, to);
  if (from.bytes == 8) copy_scaled<int64_t>(from.data, offset, stride, size, scale, to);
}

template <typename From>
void check_rows(const ItemTopk& args) {
  const View<const From, 2> rows{static_cast<const From*>(args.exclude.data), args.exclude};
  check_within("item_topk: exclude_BX", rows, {args.num_users, args.num_excluded}, -1, args.num_items - 1);
}

void shrink(Best& best) {
  if (best.size <= best.k) return;
  std::nth_element(best.keys, best.keys + best.k - 1, best.keys + best.size, std::greater<>());
  best.size = best.k;
  best.threshold = key_score(best.keys[best.k - 1]);
}

// A job scores a slice of the items for some users, and writes each user's best k to `keys` (num_users, num_slices, k).
struct Plan {
  const ItemTopk& args;
  Kernels kernels;
  bool users_in_lanes;
  int64_t capacity, users_at_once, num_slices, slice_size;
  std::vector<int64_t> keys;
};

Plan make_plan(const ItemTopk& args, int num_threads) {
  const Kernels kernels{FOR_ISA(current_isa(), score_users), FOR_ISA(current_isa(), score_items)};
  Plan plan{args, kernels, false, 0, 0, 1, args.num_items, {}};
  plan.capacity = std::min(args.num_items, std::max(2 * args.k, args.k + kUsers));
  plan.users_at_once = std::clamp<int64_t>(kKeysAtOnce / std::max<int64_t>(plan.capacity, 1), 1, kUsersAtOnce);
  const int64_t num_groups = (args.num_users + plan.users_at_once - 1) / plan.users_at_once;
  if (num_threads > 1) {
    const int64_t wanted = (4 * num_threads + num_groups - 1) / num_groups;
    plan.num_slices = std::clamp<int64_t>(wanted, 1, args.num_items / kSmallestSlice + 1);
    plan.slice_size = (args.num_items + plan.num_slices - 1) / plan.num_slices;
  }
  const int64_t users_together = std::min({args.num_users, plan.users_at_once, kUsers});
  plan.users_in_lanes = users_together >= kUsers / 2 && 4 * args.num_codes <= args.num_items;
  plan.keys.assign(args.num_users * plan.num_slices * args.k, kNoItem);
  return plan;
}

// The tables (num_books, num_codes, kUsers) of `num_users` users from `first` on, in blocks of kUsers.
AlignedFloats make_tables(const ItemTopk& args, int64_t first, int64_t num_users) {
  const int64_t num_blocks = (num_users + kUsers - 1) / kUsers;
  AlignedFloats tables(num_blocks * args.num_books * args.num_codes * kUsers);
  for (int64_t u = 0; u < num_users; ++u) {
    float* to = tables.data() + u / kUsers * args.num_books * args.num_codes * kUsers + u % kUsers;
    for (int64_t m = 0; m < args.num_books; ++m) {
      const float* from = args.log_probs.data + args.log_probs.offset(first + u, m);
      for (int64_t c = 0; c < args.num_codes; ++c, to += kUsers) *to = from[c * args.log_probs.strides[2]];
    }
  }
  return tables;
}

// The excluded items of each user in ascending order; each list ends in kAboveItems.
std::vector<int64_t> sorted_exclusions(const ItemTopk& args, int64_t first, int64_t num_users) {
  std::vector<int64_t> lists(num_users * (args.num_excluded + 1), kAboveItems);
  for (int64_t u = 0; u < num_users; ++u) {
    int64_t* list = lists.data() + u * (args.num_excluded + 1);
    copy(args.exclude, args.exclude.offset(first + u), args.exclude.strides[1], args.num_excluded, 1, list);
    std::sort(list, list + args.num_excluded);
  }
  return lists;
}

void unpack_codes(const ItemTopk& args, int64_t first, int64_t num_items, int64_t scale, int32_t* codes) {
  for (int64_t m = 0; m < args.num_books; ++m, codes += kTile) {
    copy(args.ids, args.ids.offset(first, m), args.ids.strides[0], num_items, scale, codes);
    std::fill(codes + num_items, codes + kTile, 0);
  }
}

void run_job(Plan& plan, int64_t group, int64_t slice) {
  const ItemTopk& args = plan.args;
  const int64_t first_user = group * plan.users_at_once;
  const int64_t num_users = std::min(plan.users_at_once, args.num_users - first_user);
  const int64_t begin = slice * plan.slice_size, end = std::min(begin + plan.slice_size, args.num_items);
  const std::vector<int64_t> exclusions = sorted_exclusions(args, first_user, num_users);
  const AlignedFloats tables = plan.users_in_lanes ? make_tables(args, first_user, num_users) : AlignedFloats();
  std::vector<int32_t> codes(args.num_books * kTile);
  std::vector<int64_t> keys(num_users * plan.capacity);
  std::vector<Best> best(num_users);
  std::vector<float> thresholds((num_users + kUsers - 1) / kUsers * kUsers, kInfinity);
  for (int64_t u = 0; u < num_users; ++u) {
    best[u] = {keys.data() + u * plan.capacity,
               0,
               plan.capacity,
               args.k,
               -kInfinity,
               exclusions.data() + u * (args.num_excluded + 1)};
    thresholds[u] = -kInfinity;
  }
  for (int64_t i = begin; i < end; i += kTile) {
    const Tile tile{codes.data(), i, std::min(kTile, end - i), args.num_books};
    unpack_codes(args, i, tile.num_items, plan.users_in_lanes ? kUsers : args.log_probs.strides[2], codes.data());
    if (plan.users_in_lanes) {
      for (int64_t u = 0; u < num_users; u += kUsers) {
        const float* table = tables.data() + u * args.num_books * args.num_codes;
        plan.kernels.score_users(table, args.num_codes, tile, &best[u], &thresholds[u]);
      }
    } else {
      for (int64_t u = 0; u < num_users; ++u) {
        const float* row = args.log_probs.data + args.log_probs.offset(first_user + u);
        plan.kernels.score_items(row, args.log_probs.strides[1], tile, best[u]);
      }
    }
  }
  for (int64_t u = 0; u < num_users; ++u) {
    shrink(best[u]);
    int64_t* to = plan.keys.data() + ((first_user + u) * plan.num_slices + slice) * args.k;
    std::copy(best[u].keys, best[u].keys + best[u].size, to);
  }
}

// Merges the slices of each user and writes the result.
void finish_users(Plan& plan, int64_t begin, int64_t end) {
  const int64_t k = plan.args.k;
  for (int64_t u = begin; u < end; ++u) {
    int64_t* keys = plan.keys.data() + u * plan.num_slices * k;
    if (plan.num_slices > 1) std::nth_element(keys, keys + k - 1, keys + plan.num_slices * k, std::greater<>());
    std::sort(keys, keys + k, std::greater<>());
    for (int64_t n = 0; n < k; ++n) {
      plan.args.scores[u * k + n] = keys[n] == kNoItem ? -kInfinity : key_score(keys[n]);
      plan.args.items[u * k + n] = keys[n] == kNoItem ? -1 : key_item(keys[n]);
    }
  }
}

}  // namespace

void topk::keep(Best& best, float score, int64_t item) {
  while (*best.excluded < item) ++best.excluded;
  if (*best.excluded == item) return;
  best.keys[best.size++] = make_key(score, item);
  if (best.size == best.capacity) shrink(best);
}

void item_topk_cpu(const ItemTopk& args, int num_threads) {
  if (args.exclude.bytes == 2) check_rows<int16_t>(args);
  if (args.exclude.bytes == 4) check_rows<int32_t>(args);
  if (args.exclude.bytes == 8) check_rows<int64_t>(args);
  if (args.num_users == 0 || args.k == 0) return;
  Plan plan = make_plan(args, num_threads);
  const int64_t num_groups = (args.num_users + plan.users_at_once - 1) / plan.users_at_once;
  parallel_for(num_threads, num_groups * plan.num_slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) run_job(plan, job / plan.num_slices, job % plan.num_slices);
  });
  parallel_for(num_threads, args.num_users, std::max<int64_t>(1, kKeysAtOnce / 256 / args.k),
               [&](int64_t begin, int64_t end) { finish_users(plan, begin, end); });
}

}  // namespace reg4rec
