#include "path_topk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "isa.h"
#include "ranges.h"
#include "threads.h"
#include "token_index.h"

namespace reg4rec {

DECLARE_FOR_ISAS(double exact_dot(const float* a, const float* b, int64_t width, int64_t half, double* scratch);)

namespace {

using ExactDot = double (*)(const float*, const float*, int64_t, int64_t, double*);

constexpr int64_t kAhead = 4;  // items whose residuals are prefetched while one is scored

struct Found {
  int64_t item, path, rank;
  double score;
};

// Higher scores first, then lower paths, ranks and items; NaN last, as torch sorts it.
bool comes_before(const Found& a, const Found& b) {
  if (std::isnan(a.score) != std::isnan(b.score)) return std::isnan(b.score);
  if (a.score != b.score && !std::isnan(a.score)) return a.score > b.score;
  if (a.path != b.path) return a.path < b.path;
  return a.rank != b.rank ? a.rank < b.rank : a.item < b.item;
}

// Finds the items of one user after another in the same buffers.
class Finder {
 public:
  Finder(const PathTopk& args, ExactDot exact_dot) : args_(args), index_(token_index(args)), exact_dot_(exact_dot) {
    while (2 * half_ < args.width) half_ *= 2;
    scratch_.resize(half_);
  }

  void find(int64_t user) {
    list_rows(args_.exclude, args_.num_excluded, user, excluded_);
    find_items(user);
    if (args_.logits != nullptr) score_items(user);
    write_best(user);
  }

 private:
  static void list_rows(const View<const int64_t, 2>& rows, int64_t count, int64_t user, std::vector<int64_t>& to) {
    to.clear();
    for (int64_t x = 0; x < count; ++x) {
      if (rows(user, x) >= 0) to.push_back(rows(user, x));
    }
    std::sort(to.begin(), to.end());
  }

  // Sets found_ to the items of all paths, each with the first path that leads to it.
  void find_items(int64_t user) {
    found_.clear();
    lists_.clear();
    int64_t most = 0;
    for (int64_t path = 0; path < args_.num_paths; ++path) {
      if (!(args_.scores(user, path) > -std::numeric_limits<float>::infinity())) continue;
      const size_t num_tokens = tokens_of(user, path);
      lists_.push_back({path, num_tokens > 0 ? index_.shortest_list(tokens_.data(), num_tokens) : Postings{}});
      most += lists_.back().items.size();
    }
    size_t slots = 1;
    while (slots < 2 * static_cast<size_t>(most)) slots *= 2;
    seen_.assign(slots, -1);
    for (const auto& [path, items] : lists_) {
      const size_t num_tokens = tokens_of(user, path);
      auto excluded = excluded_.begin();
      for (const int32_t* item = items.first; item != items.last; ++item) {
        while (excluded != excluded_.end() && *excluded < *item) ++excluded;
        if (excluded != excluded_.end() && *excluded == *item) continue;
        if (!index_.carries(*item, tokens_.data(), num_tokens)) continue;
        if (insert(*item)) found_.push_back({*item, path, args_.rank[*item], args_.scores(user, path)});
      }
    }
  }

  // Sets tokens_ to those of a path and returns their number.
  size_t tokens_of(int64_t user, int64_t path) {
    tokens_.clear();
    for (int64_t r = 0; r < args_.num_codebooks; ++r) {
      const int64_t code = args_.tokens(user, path, r);
      if (code >= 0) tokens_.push_back({r, code});
    }
    return tokens_.size();
  }

  // Adds an item to seen_, a hash table; returns false if it was there.
  bool insert(int32_t item) {
    const size_t mask = seen_.size() - 1;
    for (size_t slot = item * size_t{0x9e3779b97f4a7c15} >> 32 & mask;; slot = (slot + 1) & mask) {
      if (seen_[slot] == item) return false;
      if (seen_[slot] < 0) {
        seen_[slot] = item;
        return true;
      }
    }
  }

  void score_items(int64_t user) {
    const int64_t books = args_.num_codebooks, codes = args_.codebook_size, width = args_.width;
    const float* logits = args_.logits + user * books * codes;
    list_rows(args_.repeated, args_.num_repeated, user, repeated_);
    const auto residual_of = [&](const Found& found) { return args_.residual + found.item * width; };
    for (size_t n = 0; n < found_.size(); ++n) {
      if (n + kAhead < found_.size()) {
        for (int64_t c = 0; c < width; c += 16) __builtin_prefetch(residual_of(found_[n + kAhead]) + c);
      }
      Found& found = found_[n];
      const int32_t* own = args_.codes + found.item * books;
      double score = 0;
      for (int64_t r = 0; r < books; ++r) score += logits[r * codes + own[r]];
      if (width > 0)
        score += exact_dot_(args_.states + user * width, residual_of(found), width, half_, scratch_.data());
      if (std::binary_search(repeated_.begin(), repeated_.end(), found.item))
        score += static_cast<float>(args_.repeat_bias);
      found.score = score;
    }
  }

  void write_best(int64_t user) {
    const auto size = static_cast<int64_t>(found_.size()), written = std::min(args_.k, size);
    std::partial_sort(found_.begin(), found_.begin() + written, found_.end(), comes_before);
    const int64_t first = user * args_.k;
    for (int64_t n = 0; n < args_.k; ++n) {
      const bool there = n < written;
      args_.best_scores[first + n] =
          there ? static_cast<float>(found_[n].score) : -std::numeric_limits<float>::infinity();
      args_.items[first + n] = there ? found_[n].item : -1;
      args_.paths[first + n] = there ? found_[n].path : -1;
    }
  }

  struct List {
    int64_t path;
    Postings items;
  };

  const PathTopk& args_;
  const TokenIndex index_;
  const ExactDot exact_dot_;
  int64_t half_ = 1;
  std::vector<double> scratch_;
  std::vector<int64_t> excluded_, repeated_;
  std::vector<Token> tokens_;
  std::vector<List> lists_;
  std::vector<int32_t> seen_;
  std::vector<Found> found_;
};

}  // namespace

void path_topk_cpu(const PathTopk& args, int num_threads) {
  const int64_t users = args.num_users, last_item = args.num_items - 1;
  check_within("path_topk: tokens_BWM", args.tokens, {users, args.num_paths, args.num_codebooks}, -1,
               args.codebook_size - 1);
  check_within("path_topk: exclude_BX", args.exclude, {users, args.num_excluded}, -1, last_item);
  check_within("path_topk: scoring.repeated_BL", args.repeated, {users, args.num_repeated}, -1, last_item);
  const ExactDot dot = FOR_ISA(current_isa(), exact_dot);
  parallel_for(num_threads, args.num_users, 1, [&](int64_t begin, int64_t end) {
    Finder finder(args, dot);
    for (int64_t user = begin; user < end; ++user) finder.find(user);
  });
}

}  // namespace reg4rec
