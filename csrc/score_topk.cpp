#include "score_topk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "amx.h"
#include "isa.h"
#include "ranges.h"
#include "threads.h"

namespace reg4rec {

using scoring::Digits;
using scoring::kChannels;
using scoring::kItems;
using scoring::Query;

DECLARE_FOR_ISAS(void score_panels(const ScoreTopk& args, int64_t begin, int64_t end, Query* queries,
                                   int64_t num_queries);
                 double exact_dot(const float* a, const float* b, int64_t width, int64_t half, double* scratch);)

namespace avx512 {
void score_panels_by_tiles(const ScoreTopk& args, int64_t begin, int64_t end, Query* queries, int64_t num_queries);
}

namespace {

using ScorePanels = void (*)(const ScoreTopk&, int64_t, int64_t, Query*, int64_t);
using ExactDot = double (*)(const float*, const float*, int64_t, int64_t, double*);

constexpr int64_t kUsers = 64;                       // share a pass over a tile
constexpr int64_t kTileBytes = 1 << 17;              // of panels, which stay in a core's cache
constexpr int64_t kSlice = 64;                       // least panels per thread, if users are few
constexpr int64_t kMostDigit = 63;                   // see add_products
constexpr int64_t kAhead = 4;                        // items whose rows are prefetched while one is scored
constexpr double kSmall = 0x1p-40, kLarge = 0x1p40;  // between them, no product of a score over- or underflows float32
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Candidate {
  int64_t item;
  float least, most;  // bounds of its score
};

// The items of one user and one slice that may be among the best k.
struct Found {
  int64_t k;
  size_t capacity;
  const int64_t *seen, *seen_end;  // ascending
  std::vector<Candidate> items;
  std::vector<float> scratch;
};

struct Scored {
  double score;
  int64_t item;
};

bool comes_before(const Scored& a, const Scored& b) { return a.score != b.score ? a.score > b.score : a.item < b.item; }

// Raises the threshold to the k-th best lower bound, and drops the items that cannot reach it.
void shrink(Query& query) {
  Found& found = *static_cast<Found*>(query.found);
  if (static_cast<int64_t>(found.items.size()) > found.k) {
    found.scratch.clear();
    for (const Candidate& item : found.items) found.scratch.push_back(item.least);
    const auto kth = found.scratch.begin() + found.k - 1;
    std::nth_element(found.scratch.begin(), kth, found.scratch.end(), std::greater<>());
    query.threshold = std::max(query.threshold, *kth);
    const auto hopeless = [&query](const Candidate& item) { return item.most < query.threshold; };
    found.items.erase(std::remove_if(found.items.begin(), found.items.end(), hopeless), found.items.end());
  }
  found.capacity = std::max(found.capacity, 2 * found.items.size());
}

struct Plan {
  const ScoreTopk& args;
  ScorePanels score_panels;
  ExactDot exact_dot;
  int64_t fours, half, num_slices, panels_of_slice;
  std::vector<Digits> digits;
  std::vector<int64_t> seen;         // of each user ascending, each row once
  std::vector<int64_t> seen_counts;  // of each user
  std::vector<Query> queries;        // of each user, then once more for every further slice
  std::vector<Found> found;          // likewise
};

ScorePanels best_scan(const ScoreTopk& args) {
#ifdef REG4REC_X86
  const bool fills_tiles = args.num_users >= kTileRows / 2 && (args.width + kChannels - 1) / kChannels % 16 == 0;
  if (current_isa() == Isa::kAmx && fills_tiles) return avx512::score_panels_by_tiles;
#endif
  return FOR_ISA(score_topk_isa(), score_panels);
}

Plan make_plan(const ScoreTopk& args, int num_threads) {
  const int64_t num_panels = (args.num_items + kItems - 1) / kItems;
  const int64_t groups = (args.num_users + kUsers - 1) / kUsers;
  const int64_t wanted = std::min<int64_t>((num_threads + groups - 1) / groups, num_panels / kSlice);
  const int64_t slices = std::max<int64_t>(1, wanted);
  int64_t half = 1;
  while (2 * half < args.width) half *= 2;
  return {args,
          best_scan(args),
          FOR_ISA(current_isa(), exact_dot),
          (args.width + kChannels - 1) / kChannels,
          half,
          slices,
          (num_panels + slices - 1) / slices,
          std::vector<Digits>(args.num_users * ((args.width + kChannels - 1) / kChannels)),
          std::vector<int64_t>(args.num_users * args.num_seen),
          std::vector<int64_t>(args.num_users),
          std::vector<Query>(args.num_users * slices),
          std::vector<Found>(args.num_users * slices)};
}

// Writes a state's digits. Where the bounds would not hold, slack stays infinite and every item is scored.
Query make_query(const Plan& plan, int64_t user, Digits* digits) {
  const ScoreTopk& args = plan.args;
  const float* state = args.states + user * args.width;
  float largest = 0;
  double squares = 0;
  for (int64_t c = 0; c < args.width; ++c) {
    largest = std::max(largest, std::fabs(state[c]));  // skips a NaN, which makes `squares` NaN
    squares += static_cast<double>(state[c]) * state[c];
  }
  Query query{digits, 0, 0, 0, 0, kInfinity, nullptr, nullptr, -kInfinity, nullptr};
  double of_tables = 0;
  if (args.num_tables > 0) {
    query.tables = args.tables + user * args.num_tables * args.table_size;
    for (int64_t t = 0; t < args.num_tables; ++t) {
      double most = 0;
      for (int64_t n = 0; n < args.table_size; ++n) {
        most = std::max(most, std::fabs(static_cast<double>(query.tables[t * args.table_size + n])));
      }
      of_tables += most;
    }
  }
  if (args.allowed != nullptr && args.words_of_user > 0) query.allowed = args.allowed + user * args.words_of_user;
  const double norm = std::sqrt(squares);
  const bool is_zero = largest == 0 && squares == 0;
  if (!(is_zero || (norm > kSmall && norm < kLarge)) || !(args.largest < kLarge) || !(of_tables < kLarge)) return query;
  if (args.largest > 0 && args.largest < kSmall) return query;
  const float scale = largest / kMostDigit;
  double off = 0, kept = 0;
  int64_t sum = 0;
  for (int64_t c = 0; c < args.width; ++c) {
    const auto digit = is_zero ? 0 : std::lrint(static_cast<double>(state[c]) / scale);
    const double copy = static_cast<double>(scale) * digit;
    off += (state[c] - copy) * (state[c] - copy);
    kept += copy * copy;
    sum += digit;
    digits[c / kChannels] |= static_cast<Digits>(static_cast<uint32_t>(digit & 0xff) << 8 * (c % kChannels));
  }
  // the rounding of the scan itself: four operations, and one more per table
  constexpr double kUp = 1 + 0x1p-18, kRounding = 0x1p-21;
  query.offset = static_cast<float>(128 * sum);
  query.scale = scale;
  query.item_error = static_cast<float>(norm * kUp);
  query.own_error = static_cast<float>((std::sqrt(off) + kRounding * std::sqrt(kept)) * kUp);
  query.slack = static_cast<float>((kRounding * (1 + args.num_tables) * of_tables + 0x1p-120) * kUp);
  return query;
}

void prepare_users(Plan& plan, int64_t begin, int64_t end) {
  const ScoreTopk& args = plan.args;
  for (int64_t user = begin; user < end; ++user) {
    int64_t *first = plan.seen.data() + user * args.num_seen, *last = first;
    for (int64_t x = 0; x < args.num_seen; ++x) {
      const int64_t item = args.seen[user * args.num_seen + x];
      if (item >= 0) *last++ = item;
    }
    std::sort(first, last);
    last = std::unique(first, last);
    plan.seen_counts[user] = last - first;
    const Query query = make_query(plan, user, plan.digits.data() + user * plan.fours);
    for (int64_t slice = 0; slice < plan.num_slices; ++slice) {
      Found& found = plan.found[slice * args.num_users + user];
      found = {args.k, static_cast<size_t>(2 * args.k + kItems), first, last, {}, {}};
      found.items.reserve(found.capacity);
      plan.queries[slice * args.num_users + user] = query;
      plan.queries[slice * args.num_users + user].found = &found;
    }
  }
}

void scan_jobs(Plan& plan, int64_t begin, int64_t end) {
  const ScoreTopk& args = plan.args;
  const int64_t num_panels = (args.num_items + kItems - 1) / kItems;
  const int64_t tile = std::max<int64_t>(1, kTileBytes / (plan.fours * kChannels * kItems));
  for (int64_t job = begin; job < end; ++job) {
    const int64_t slice = job % plan.num_slices, first_user = job / plan.num_slices * kUsers;
    const int64_t num_users = std::min(kUsers, args.num_users - first_user);
    Query* queries = plan.queries.data() + slice * args.num_users + first_user;
    const int64_t last = std::min(num_panels, (slice + 1) * plan.panels_of_slice);
    for (int64_t panel = slice * plan.panels_of_slice; panel < last; panel += tile) {
      plan.score_panels(args, panel, std::min(last, panel + tile), queries, num_users);
    }
    for (int64_t u = 0; u < num_users; ++u) shrink(queries[u]);
  }
}

class Finisher {
 public:
  explicit Finisher(const Plan& plan) : plan_(plan), args_(plan.args), scratch_(plan.half) {}

  void finish(int64_t user) {
    collect(user);
    scored_.clear();
    for (size_t n = 0; n < items_.size(); ++n) {
      if (n + kAhead < items_.size()) {
        const float* row = args_.rows + items_[n + kAhead] * args_.width;
        for (int64_t c = 0; c < args_.width; c += 16) __builtin_prefetch(row + c);
      }
      add(user, items_[n], 0);
    }
    if (args_.scores_seen) {
      const int64_t* seen = plan_.seen.data() + user * args_.num_seen;
      for (int64_t n = 0; n < plan_.seen_counts[user]; ++n) {
        if (is_allowed(user, seen[n])) add(user, seen[n], args_.seen_bias);
      }
    }
    write_best(user);
  }

 private:
  // The items of all slices that may be among the best.
  void collect(int64_t user) {
    items_.clear();
    least_.clear();
    float threshold = -kInfinity;
    for (int64_t slice = 0; slice < plan_.num_slices; ++slice) {
      for (const Candidate& item : found(slice, user).items) least_.push_back(item.least);
    }
    if (static_cast<int64_t>(least_.size()) > args_.k) {
      std::nth_element(least_.begin(), least_.begin() + args_.k - 1, least_.end(), std::greater<>());
      threshold = least_[args_.k - 1];
    }
    for (int64_t slice = 0; slice < plan_.num_slices; ++slice) {
      for (const Candidate& item : found(slice, user).items) {
        if (!(item.most < threshold)) items_.push_back(item.item);
      }
    }
  }

  const Found& found(int64_t slice, int64_t user) const { return plan_.found[slice * args_.num_users + user]; }

  bool is_allowed(int64_t user, int64_t item) const {
    if (args_.allowed == nullptr) return true;
    return args_.allowed[user * args_.words_of_user + item / kItems] >> item % kItems & 1;
  }

  void add(int64_t user, int64_t item, double bias) {
    double score = plan_.exact_dot(args_.states + user * args_.width, args_.rows + item * args_.width, args_.width,
                                   plan_.half, scratch_.data());
    const float* tables = args_.tables + user * args_.num_tables * args_.table_size;
    for (int64_t t = 0; t < args_.num_tables; ++t) {
      score += tables[t * args_.table_size + args_.codes[item * args_.num_tables + t]];
    }
    score += bias;
    if (score > -std::numeric_limits<double>::infinity()) scored_.push_back({score, item});
  }

  void write_best(int64_t user) {
    const int64_t written = std::min<int64_t>(args_.k, scored_.size());
    std::partial_sort(scored_.begin(), scored_.begin() + written, scored_.end(), comes_before);
    for (int64_t n = 0; n < args_.k; ++n) {
      args_.best_scores[user * args_.k + n] = n < written ? scored_[n].score : -std::numeric_limits<double>::infinity();
      args_.best_rows[user * args_.k + n] = n < written ? scored_[n].item : -1;
    }
  }

  const Plan& plan_;
  const ScoreTopk& args_;
  std::vector<double> scratch_;
  std::vector<int64_t> items_;
  std::vector<float> least_;
  std::vector<Scored> scored_;
};

}  // namespace

void scoring::keep(Query& query, int64_t item, float score, float error) {
  Found& found = *static_cast<Found*>(query.found);
  if (std::binary_search(found.seen, found.seen_end, item)) return;
  const float least = score - error, most = score + error;
  found.items.push_back({item, least > -kInfinity ? least : -kInfinity, most});
  if (found.items.size() >= found.capacity) shrink(query);
}

void score_topk_cpu(const ScoreTopk& args, int num_threads) {
  check_dense<2>("score_topk: seen_BL", args.seen, {args.num_users, args.num_seen}, -1, args.num_items - 1);
  if (args.num_users == 0 || args.k == 0) return;
  Plan plan = make_plan(args, num_threads);
  const int64_t num_groups = (args.num_users + kUsers - 1) / kUsers;
  parallel_for(num_threads, args.num_users, kUsers,
               [&](int64_t begin, int64_t end) { prepare_users(plan, begin, end); });
  parallel_for(num_threads, num_groups * plan.num_slices, 1,
               [&](int64_t begin, int64_t end) { scan_jobs(plan, begin, end); });
  parallel_for(num_threads, args.num_users, kUsers / 4, [&](int64_t begin, int64_t end) {
    Finisher finisher(plan);
    for (int64_t user = begin; user < end; ++user) finisher.finish(user);
  });
}

}  // namespace reg4rec
