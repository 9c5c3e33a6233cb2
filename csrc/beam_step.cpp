#include "beam_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bf16.h"
#include "isa.h"
#include "ranges.h"
#include "threads.h"
#include "token_index.h"

namespace reg4rec {

DECLARE_FOR_ISAS(double exponential_sum(const void* logits, bool is_bf16, int64_t offset, int64_t stride, int64_t size,
                                        float* row, float* largest);)

namespace {

using ExponentialSum = double (*)(const void*, bool, int64_t, int64_t, int64_t, float*, float*);

constexpr int64_t kGrain = 1 << 14;  // logits per range
constexpr double kGrid = 0x1.8p18;   // adding and subtracting it rounds to multiples of 2^-34, see GRID in reference.py
constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Child {
  double score;
  int64_t position;  // (parent * num_codebooks + codebook) * codebook_size + code
};

// Whether `a` ranks behind `b`.
constexpr auto worse = [](const Child& a, const Child& b) {
  return a.score < b.score || (a.score == b.score && a.position > b.position);
};

// Spreads a token over 64 bits, so that different sets have different sums.
uint64_t mix(uint64_t x) {
  x = (x + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

// The children that can be among the best `count`. A histogram of their distances below the highest possible score
// rules out the others: those in a later bin than the count-th best so far.
class Shortlist {
 public:
  void begin(double highest, int64_t count) {
    highest_ = highest;
    count_ = count;
    size_ = 0;
    num_binned_ = 0;
    last_bin_ = kBins - 1;
    std::fill(histogram_, histogram_ + kBins, 0);
  }

  bool is_hopeless(double score) const { return bin(score) > last_bin_; }

  // Adds a child {score_of(code), first + code} for each code whose bit is set in `open`, except hopeless ones and
  // scores of -inf or NaN. There is no branch on the score, because the processor could not predict it.
  template <typename ScoreOf>
  void add(const uint64_t* open, int64_t num_words, int64_t first, ScoreOf score_of) {
    if (children_.size() < static_cast<size_t>(size_ + 64 * num_words)) children_.resize(2 * size_ + 64 * num_words);
    int64_t size = size_;
    for (int64_t w = 0; w < num_words; ++w) {
      for (uint64_t word = open[w]; word != 0; word &= word - 1) {
        const int64_t code = w * 64 + __builtin_ctzll(word);
        const double score = score_of(code);
        const int64_t at = bin(score);
        children_[size] = {score, first + code};
        const bool taken = (at <= last_bin_) & (score > kNever);
        size += taken;
        histogram_[at] += taken;
      }
    }
    num_binned_ += size - size_;
    size_ = size;
    while (num_binned_ - histogram_[last_bin_] >= count_) num_binned_ -= histogram_[last_bin_--];
  }

  void make_heap() {
    const auto begin = children_.begin();
    size_ =
        std::remove_if(begin, begin + size_, [this](const Child& child) { return is_hopeless(child.score); }) - begin;
    std::make_heap(begin, begin + size_, worse);
  }

  int64_t size() const { return size_; }

  Child pop_best() {
    std::pop_heap(children_.begin(), children_.begin() + size_, worse);
    return children_[--size_];
  }

 private:
  static constexpr int64_t kBins = 512;

  // Sixteenths of a nat below the highest score; everything far below shares the last bin.
  int64_t bin(double score) const { return static_cast<int64_t>(std::min<double>(kBins - 1, (highest_ - score) * 16)); }

  std::vector<Child> children_;
  double highest_ = 0;
  int64_t count_ = 0, size_ = 0, last_bin_ = 0;
  int64_t num_binned_ = 0;  // in the bins up to last_bin_
  int32_t histogram_[kBins];
};

// Computes the step of one user after another in the same buffers.
class Stepper {
 public:
  Stepper(const BeamStep& args, ExponentialSum exponential_sum)
      : args_(args),
        index_(token_index(args)),
        exponential_sum_(exponential_sum),
        num_ranked_(args.width * args.num_codebooks),
        words_(args.codebook_size / 64 + 1),
        row_(args.codebook_size / 16 * 16 + 16),
        chosen_(args.renormalize ? args.codebook_size : 0),
        logits_(args.renormalize ? args.codebook_size : 0),
        open_(args.num_codebooks * words_) {}

  void step(int64_t user) {
    user_ = user;
    args_.fallback[user] = choose_paths();
    list_excluded();
    double highest = kNever;
    for (int64_t path : paths_) highest = std::max<double>(highest, args_.scores(user_, path));
    shortlist_.begin(highest, num_ranked_);
    for (int64_t path : paths_) {
      if (shortlist_.is_hopeless(args_.scores(user_, path))) continue;  // no child scores higher
      open_tokens(path);
      score_children(path);
    }
    write_best();
  }

 private:
  // Sets paths_ to those that CORP keeps; returns whether none is consistent and the least divergent one is kept.
  bool choose_paths() {
    paths_.clear();
    int64_t least = -1;
    float least_js = -kNever;
    for (int64_t path = 0; path < args_.num_paths; ++path) {
      if (!(args_.scores(user_, path) > kNever)) continue;
      if (args_.js.data == nullptr || args_.js(user_, path) <= static_cast<float>(args_.threshold)) {
        paths_.push_back(path);
      } else if (least < 0 || args_.js(user_, path) < least_js) {
        least = path;
        if (!std::isnan(args_.js(user_, path))) least_js = args_.js(user_, path);
      }
    }
    const bool fallback = paths_.empty() && least >= 0;
    if (fallback) paths_.push_back(least);
    if (static_cast<int64_t>(paths_.size()) > args_.num_beams) {
      const auto ranks_before = [this](int64_t a, int64_t b) {
        const float score_a = args_.scores(user_, a), score_b = args_.scores(user_, b);
        return score_a > score_b || (score_a == score_b && a < b);
      };
      std::nth_element(paths_.begin(), paths_.begin() + args_.num_beams, paths_.end(), ranks_before);
      paths_.resize(args_.num_beams);
    }
    return fallback;
  }

  void list_excluded() {
    excluded_.clear();
    for (int64_t x = 0; x < args_.num_excluded; ++x) {
      if (args_.exclude(user_, x) >= 0) excluded_.push_back(args_.exclude(user_, x));
    }
    std::sort(excluded_.begin(), excluded_.end());
    excluded_.erase(std::unique(excluded_.begin(), excluded_.end()), excluded_.end());
  }

  // Sets the bits in open_ of the tokens with which a path can still reach an existing, allowed item.
  void open_tokens(int64_t path) {
    used_.clear();
    unused_.clear();
    for (int64_t r = 0; r < args_.num_codebooks; ++r) {
      const int64_t code = args_.tokens(user_, path, r);
      code < 0 ? unused_.push_back(r) : used_.push_back({r, code});
    }
    std::fill(open_.begin(), open_.end(), 0);
    if (used_.empty()) {
      open_at_root();
    } else if (used_.size() == 1 && index_.pair_offsets != nullptr) {
      open_beside(used_[0]);
    } else {
      open_of_items();
    }
  }

  // Before the first token: opens the tokens that more items carry than are excluded.
  void open_at_root() {
    counts_.assign(args_.counts, args_.counts + args_.num_codebooks * args_.codebook_size);
    for (int64_t item : excluded_) {
      const int32_t* codes = index_.codes + item * args_.num_codebooks;
      const Postings list = index_.posting_list({0, codes[0]});
      if (!std::binary_search(list.first, list.last, item)) continue;  // the index does not list this item
      for (int64_t r = 0; r < args_.num_codebooks; ++r) --counts_[r * args_.codebook_size + codes[r]];
    }
    for (int64_t r = 0; r < args_.num_codebooks; ++r) {
      for (int64_t code = 0; code < args_.codebook_size; ++code) {
        if (counts_[r * args_.codebook_size + code] > 0) open({r, code});
      }
    }
  }

  // After one token, if pairs are listed: opens the tokens whose pair with it has an item that is not excluded.
  void open_beside(const Token& token) {
    for (int64_t r : unused_) {
      for (int64_t code = 0; code < args_.codebook_size; ++code) {
        if (!index_.pair_list(token, {r, code}).empty()) open({r, code});
      }
    }
    for (int64_t item : excluded_) {
      const int32_t* codes = index_.codes + item * args_.num_codebooks;
      if (codes[token.codebook] != token.code) continue;
      for (int64_t r : unused_) {
        const Postings list = index_.pair_list(token, {r, codes[r]});
        const bool all_excluded = list.size() <= static_cast<int64_t>(excluded_.size()) &&
                                  std::all_of(list.first, list.last, [this](int32_t other) {
                                    return std::binary_search(excluded_.begin(), excluded_.end(), other);
                                  });
        if (all_excluded) close({r, codes[r]});
      }
    }
  }

  // Otherwise: opens the tokens of the items that carry all tokens of the path, found in its shortest posting list.
  void open_of_items() {
    const auto [first, last] = index_.shortest_list(used_.data(), used_.size());
    auto excluded = excluded_.begin();
    for (const int32_t* item = first; item != last; ++item) {
      if (last - item > 16) __builtin_prefetch(index_.codes + item[16] * args_.num_codebooks);
      while (excluded != excluded_.end() && *excluded < *item) ++excluded;
      if (excluded != excluded_.end() && *excluded == *item) continue;
      if (!index_.carries(*item, used_.data(), used_.size())) continue;
      const int32_t* codes = index_.codes + *item * args_.num_codebooks;
      for (int64_t r : unused_) open({r, codes[r]});
    }
  }

  void open(const Token& token) {
    open_[token.codebook * words_ + (token.code >> 6)] |= uint64_t{1} << (token.code & 63);
  }

  void close(const Token& token) {
    open_[token.codebook * words_ + (token.code >> 6)] &= ~(uint64_t{1} << (token.code & 63));
  }

  void score_children(int64_t path) {
    const double path_score = args_.scores(user_, path);
    for (int64_t r : unused_) {
      const uint64_t* open = open_.data() + r * words_;
      if (std::all_of(open, open + words_, [](uint64_t word) { return word == 0; })) continue;
      float largest;
      double sum;
      if (args_.renormalize) {
        const int64_t count = gather_open(path, r);
        sum = exponential_sum_(chosen_.data(), false, 0, 1, count, row_.data(), &largest);
      } else {
        sum = exponential_sum_(args_.logits.data, args_.logits.is_bf16(), args_.logits.offset(user_, path, r),
                               args_.logits.strides[3], args_.codebook_size, row_.data(), &largest);
      }
      // in the order of torch's log_softmax, so that the same children tie
      const double log_sum = std::log(sum);
      const float* logits = args_.renormalize ? logits_.data() : row_.data();
      const auto score_of = [row = logits, largest = static_cast<double>(largest), log_sum, path_score](int64_t code) {
        return path_score + ((row[code] - largest) - log_sum) + kGrid - kGrid;
      };
      shortlist_.add(open, words_, (path * args_.num_codebooks + r) * args_.codebook_size, score_of);
    }
  }

  // Copies the logits of a codebook's open tokens to chosen_, contiguously, and to logits_, each at its code.
  int64_t gather_open(int64_t path, int64_t r) {
    int64_t count = 0;
    for (int64_t w = 0; w < words_; ++w) {
      for (uint64_t word = open_[r * words_ + w]; word != 0; word &= word - 1) {
        const int64_t code = w * 64 + __builtin_ctzll(word);
        logits_[code] = chosen_[count++] = logit(args_.logits.offset(user_, path, r, code));
      }
    }
    return count;
  }

  float logit(int64_t offset) const {
    return args_.logits.is_bf16() ? float_of_bf16(static_cast<const uint16_t*>(args_.logits.data)[offset])
                                  : static_cast<const float*>(args_.logits.data)[offset];
  }

  // A set of t tokens has at most t parents, so the num_ranked_ best children contain `width` different sets.
  void write_best() {
    shortlist_.make_heap();
    size_t slots = 1;
    while (slots < 2 * static_cast<size_t>(shortlist_.size())) slots *= 2;
    sets_.assign(slots, -1);
    const int64_t num_tokens = args_.num_codebooks * args_.codebook_size;
    int64_t at = user_ * args_.width;
    const int64_t end = at + args_.width;
    for (int64_t rank = 0; rank < num_ranked_ && at < end && shortlist_.size() > 0; ++rank) {
      const Child child = shortlist_.pop_best();
      if (!insert_set(child.position)) continue;
      args_.parent[at] = child.position / num_tokens;
      args_.token[at] = child.position % num_tokens;
      args_.best_scores[at++] = static_cast<float>(child.score);
    }
    std::fill(args_.parent + at, args_.parent + end, -1);
    std::fill(args_.token + at, args_.token + end, -1);
    std::fill(args_.best_scores + at, args_.best_scores + end, kNever);
  }

  // Adds a child's token set to sets_, a hash table of positions; returns false if it was there.
  bool insert_set(int64_t position) {
    uint64_t hash = 0;
    for (int64_t r = 0; r < args_.num_codebooks; ++r) {
      const int64_t code = code_of(position, r);
      if (code >= 0) hash += mix(r * args_.codebook_size + code);
    }
    const auto same_set = [&](int64_t other) {
      for (int64_t r = 0; r < args_.num_codebooks; ++r) {
        if (code_of(position, r) != code_of(other, r)) return false;
      }
      return true;
    };
    const size_t mask = sets_.size() - 1;
    for (size_t slot = hash & mask;; slot = (slot + 1) & mask) {
      if (sets_[slot] < 0) {
        sets_[slot] = position;
        return true;
      }
      if (same_set(sets_[slot])) return false;
    }
  }

  // The code of a child in codebook r, -1 if it has none.
  int64_t code_of(int64_t position, int64_t r) const {
    const int64_t book = position / args_.codebook_size, parent = book / args_.num_codebooks;
    return book % args_.num_codebooks == r ? position % args_.codebook_size : args_.tokens(user_, parent, r);
  }

  const BeamStep& args_;
  const TokenIndex index_;
  const ExponentialSum exponential_sum_;
  const int64_t num_ranked_, words_;  // words_: of open_ per codebook
  std::vector<float> row_, chosen_, logits_;
  std::vector<uint64_t> open_;
  std::vector<int32_t> counts_;
  std::vector<int64_t> paths_, excluded_, unused_, sets_;
  std::vector<Token> used_;
  Shortlist shortlist_;
  int64_t user_ = 0;
};

}  // namespace

void beam_step_cpu(const BeamStep& args, int num_threads) {
  check_within("beam_step: tokens_BPM", args.tokens, {args.batch, args.num_paths, args.num_codebooks}, -1,
               args.codebook_size - 1);
  check_within("beam_step: exclude_BX", args.exclude, {args.batch, args.num_excluded}, -1, args.num_items - 1);
  const ExponentialSum sum = FOR_ISA(current_isa(), exponential_sum);
  const int64_t num_logits = args.num_paths * args.num_codebooks * args.codebook_size;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, num_logits));
  parallel_for(num_threads, args.batch, grain, [&](int64_t begin, int64_t end) {
    Stepper stepper(args, sum);
    for (int64_t user = begin; user < end; ++user) stepper.step(user);
  });
}

}  // namespace reg4rec
