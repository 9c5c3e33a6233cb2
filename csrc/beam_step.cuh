// Device code of beam_step, for nvcc and for NVRTC (definition: kernels/beam_step).
// A block per path finds its best children, then a block per user the best of all paths. Scores are fp64: integers must
// be those of the exact result.
#pragma once

#include "device.cuh"

namespace reg4rec_device {

constexpr double kGrid = 393216;  // as in beam_step.cpp
constexpr int kMostCodebooks = 32;

struct Child {
  double score;
  long long position;  // (path * num_codebooks + codebook) * codebook_size + code
};

__device__ inline bool better(const Child& a, const Child& b) {
  return a.score > b.score || (a.score == b.score && a.position < b.position);
}

__device__ inline Child no_child() { return {-infinity(), 0x7fffffffffffffffll}; }

struct BeamStep {
  long long num_paths, num_codebooks, codebook_size;
  const void* logits;
  long long stride_lb, stride_lp, stride_lm, stride_lk;  // in elements
  const float* scores;
  long long stride_sb, stride_sp;
  const long long* tokens;
  long long stride_tb, stride_tp, stride_tm;
  const float* js;  // null: every path is consistent
  long long stride_jb, stride_jp;
  double threshold;
  const long long* exclude;
  long long stride_xb, stride_xx, num_excluded;
  long long renormalize;  // softmax over the tokens that a path may take, else over all of the codebook
  const int* codes;       // the index, contiguous
  const long long* offsets;
  const int* postings;
  const int* counts;
  const long long* pair_offsets;  // null where pairs are not listed
  const int* pair_postings;
  long long num_beams, width;
  Child* children;  // (users, num_paths, width), what the first kernel leaves to the second
  long long* parent;
  long long* token;
  float* best_scores;
  bool* fallback;
  long long kept, capacity;  // of this kernel's Best

  __device__ float score(long long user, long long path) const { return scores[user * stride_sb + path * stride_sp]; }

  __device__ bool is_living(long long user, long long path) const { return score(user, path) > -infinity(); }

  __device__ bool is_consistent(long long user, long long path) const {
    return js == nullptr || js[user * stride_jb + path * stride_jp] <= (float)threshold;
  }

  // Orders the paths of a user who has no consistent one: NaN and infinity come last.
  __device__ float divergence(long long user, long long path) const {
    const float most = __uint_as_float(0x7f7fffffu), found = js[user * stride_jb + path * stride_jp];
    return found < most ? found : most;
  }

  // The token of a child in codebook r, -1 if it has none.
  __device__ long long code_of(long long user, long long position, long long r) const {
    const long long token = position % (num_codebooks * codebook_size);
    if (r == token / codebook_size) return token % codebook_size;
    const long long path = position / (num_codebooks * codebook_size);
    return tokens[user * stride_tb + path * stride_tp + r * stride_tm];
  }
};

// Item rows of the lists of the index.
struct Postings {
  const int* rows;
  long long first, last;

  __device__ long long size() const { return last - first; }
};

__device__ inline Postings posting_list(const BeamStep& args, long long r, long long code) {
  const long long* offset = args.offsets + r * args.codebook_size + code;
  return {args.postings, offset[0], offset[1]};
}

// Of tokens (r, i) and (s, j).
__device__ inline Postings pair_list(const BeamStep& args, long long r, long long i, long long s, long long j) {
  const long long low = r < s ? r : s, high = r < s ? s : r;
  const long long books = low * (2 * args.num_codebooks - low - 1) / 2 + high - low - 1;
  const long long code = r < s ? i * args.codebook_size + j : j * args.codebook_size + i;
  const long long* offset = args.pair_offsets + books * args.codebook_size * args.codebook_size + code;
  return {args.pair_postings, offset[0], offset[1]};
}

// Whether CORP keeps a path: one of the best consistent ones, or the least divergent one for lack of them.
__device__ inline bool keeps(const BeamStep& args, long long user, long long path) {
  __shared__ int num_consistent, num_better, num_closer;
  if (!args.is_living(user, path)) return false;
  if (threadIdx.x == 0) num_consistent = num_better = num_closer = 0;
  __syncthreads();
  const float score = args.score(user, path);
  for (long long other = threadIdx.x; other < args.num_paths; other += blockDim.x) {
    if (!args.is_living(user, other)) continue;
    if (args.is_consistent(user, other)) {
      const float other_score = args.score(user, other);
      atomicAdd(&num_consistent, 1);
      if (other_score > score || (other_score == score && other < path)) atomicAdd(&num_better, 1);
    } else if (other != path) {
      const float other_divergence = args.divergence(user, other), divergence = args.divergence(user, path);
      if (other_divergence < divergence || (other_divergence == divergence && other < path)) atomicAdd(&num_closer, 1);
    }
  }
  __syncthreads();
  return args.is_consistent(user, path) ? num_better < args.num_beams : num_consistent == 0 && num_closer == 0;
}

// The tokens by which a path can still become an existing, allowed item, as bits in shared memory.
struct OpenTokens {
  unsigned* bits;  // (num_codebooks, num_words)
  int num_words;

  __device__ bool has(int r, int code) const { return bits[r * num_words + code / 32] >> code % 32 & 1; }

  __device__ void open(int r, int code) const { atomicOr(bits + r * num_words + code / 32, 1u << code % 32); }

  __device__ void close(int r, int code) const { atomicAnd(bits + r * num_words + code / 32, ~(1u << code % 32)); }

  // Before the first token: those of which some item is not excluded.
  __device__ void begin_at_root(const BeamStep& args, const Exclusions& excluded) const {
    const int num_books = (int)args.num_codebooks, size = (int)args.codebook_size;
    for (int word = threadIdx.x; word < num_books * num_words; word += blockDim.x) {
      const int first = word % num_words * 32, last = first + 32 < size ? first + 32 : size;
      unsigned found = 0;
      for (int code = first; code < last; ++code) {
        found |= (unsigned)(args.counts[word / num_words * size + code] > 0) << (code - first);
      }
      bits[word] = found;
    }
    __syncthreads();
    for (long long i = threadIdx.x; i < excluded.count * num_books; i += blockDim.x) {
      const long long item = excluded.at(i / num_books);
      const int r = (int)(i % num_books);
      if (item < 0) continue;
      const int code = args.codes[item * num_books + r];
      if (hold_all(excluded, posting_list(args, r, code))) close(r, code);
    }
    __syncthreads();
  }

  // After one, (book, code), where pairs are listed: those that some item beside it carries that is not excluded.
  __device__ void begin_beside(const BeamStep& args, const Exclusions& excluded, int book, long long code) const {
    const int num_books = (int)args.num_codebooks, size = (int)args.codebook_size;
    for (int word = threadIdx.x; word < num_books * num_words; word += blockDim.x) {
      const int r = word / num_words, first = word % num_words * 32, last = first + 32 < size ? first + 32 : size;
      unsigned found = 0;
      for (int other = first; other < last && r != book; ++other) {
        found |= (unsigned)(pair_list(args, book, code, r, other).size() > 0) << (other - first);
      }
      bits[word] = found;
    }
    __syncthreads();
    for (long long i = threadIdx.x; i < excluded.count * num_books; i += blockDim.x) {
      const long long item = excluded.at(i / num_books);
      const int r = (int)(i % num_books);
      if (item < 0 || r == book || args.codes[item * num_books + book] != code) continue;
      const int other = args.codes[item * num_books + r];
      if (hold_all(excluded, pair_list(args, book, code, r, other))) close(r, other);
    }
    __syncthreads();
  }

  __device__ static bool hold_all(const Exclusions& excluded, const Postings& list) {
    if (list.size() > excluded.count) return false;
    long long at = list.first;
    while (at < list.last && excluded.hold(list.rows[at])) ++at;
    return at == list.last;
  }

  // After it: those of the items in the shortest posting list that carry all tokens of the path.
  __device__ void begin_after(const BeamStep& args, const Exclusions& excluded, const long long* codes) const {
    const int num_books = (int)args.num_codebooks;
    for (int word = threadIdx.x; word < num_books * num_words; word += blockDim.x) bits[word] = 0;
    Postings list{nullptr, 0, 0};
    for (int r = 0; r < num_books; ++r) {
      for (int s = 0; codes[r] >= 0 && s <= r; ++s) {  // s == r: the token alone
        if (codes[s] < 0 || (s < r && args.pair_offsets == nullptr)) continue;
        const Postings other = s == r ? posting_list(args, r, codes[r]) : pair_list(args, s, codes[s], r, codes[r]);
        if (list.rows == nullptr || other.size() < list.size()) list = other;
      }
    }
    __syncthreads();
    for (long long at = list.first + threadIdx.x; at < list.last; at += blockDim.x) {
      const int item = list.rows[at];
      const int* row = args.codes + (long long)item * num_books;
      bool fits = true;
      for (int r = 0; r < num_books; ++r) fits = fits && (codes[r] < 0 || codes[r] == row[r]);
      if (!fits || excluded.hold(item)) continue;
      for (int r = 0; r < num_books; ++r) {
        if (codes[r] < 0) open(r, row[r]);
      }
    }
    __syncthreads();
  }
};

template <typename In>
__device__ inline void best_of_path(const BeamStep& args) {
  REG4REC_SHARED(memory);
  __shared__ int next;
  __shared__ unsigned filter[kFilterWords];
  __shared__ long long codes[kMostCodebooks];
  __shared__ double largest[kMostCodebooks], log_sums[kMostCodebooks];
  const long long user = blockIdx.x / args.num_paths, path = blockIdx.x % args.num_paths;
  const int num_books = (int)args.num_codebooks, size = (int)args.codebook_size;
  Best<Child> best{(Child*)memory, &next, (int)args.kept, (int)args.capacity, no_child()};
  best.begin();

  if (keeps(args, user, path)) {
    int num_used = 0, last_used = 0;
    for (int r = threadIdx.x; r < num_books; r += blockDim.x) {
      codes[r] = args.tokens[user * args.stride_tb + path * args.stride_tp + r * args.stride_tm];
    }
    const Exclusions excluded{{args.exclude, 8}, user * args.stride_xb, args.stride_xx, args.num_excluded, filter};
    excluded.begin();
    for (int r = 0; r < num_books; ++r) {
      if (codes[r] >= 0) ++num_used, last_used = r;
    }
    const OpenTokens open{(unsigned*)(best.keys + args.capacity), (size + 31) / 32};
    if (num_used == 0) {
      open.begin_at_root(args, excluded);
    } else if (num_used == 1 && args.pair_offsets != nullptr) {
      open.begin_beside(args, excluded, last_used, codes[last_used]);
    } else {
      open.begin_after(args, excluded, codes);
    }

    const In* logits = (const In*)args.logits + user * args.stride_lb + path * args.stride_lp;
    const int lane = threadIdx.x % kWarp;
    for (int r = threadIdx.x / kWarp; r < num_books; r += blockDim.x / kWarp) {
      if (codes[r] >= 0) continue;
      const In* row = logits + r * args.stride_lm;
      float most = -infinity();
      for (int code = lane; code < size; code += kWarp) {
        if (args.renormalize && !open.has(r, code)) continue;
        const float x = to_float(row[code * args.stride_lk]);
        most = x > most ? x : most;
      }
      most = warp_max(most);
      double sum = 0;  // NaN where the row holds NaN or +inf, or -inf only
      for (int code = lane; code < size; code += kWarp) {
        if (args.renormalize && !open.has(r, code)) continue;
        sum += exp((double)to_float(row[code * args.stride_lk]) - most);
      }
      sum = warp_sum(sum);
      if (lane == 0) largest[r] = most, log_sums[r] = log(sum);
    }
    __syncthreads();

    const double path_score = args.score(user, path);
    for (int first = 0; first < num_books * size; first += blockDim.x) {
      const int token = first + threadIdx.x, r = token / size, code = token % size;
      Child child = no_child();
      if (token < num_books * size && open.has(r, code)) {
        const double logit = to_float(logits[r * args.stride_lm + code * args.stride_lk]);
        // in the order of torch's log_softmax, so that ties stay ties
        child.score = path_score + ((logit - largest[r]) - log_sums[r]) + kGrid - kGrid;
        child.position = path * num_books * size + token;
      }
      best.offer(child.score > -infinity() && best.beats(child), child);
    }
  }
  best.end();
  Child* children = args.children + (user * args.num_paths + path) * args.width;
  for (int i = threadIdx.x; i < args.width; i += blockDim.x) children[i] = i < best.size ? best.keys[i] : no_child();
}

// Spreads a token over 64 bits, so that sums of a few tell sets apart.
__device__ inline unsigned long long mix(unsigned long long x) {
  x = (x + 1) * 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
  return x ^ (x >> 32);
}

// Whether two children have the same tokens.
__device__ inline bool same_set(const BeamStep& args, long long user, long long a, long long b) {
  for (long long r = 0; r < args.num_codebooks; ++r) {
    if (args.code_of(user, a, r) != args.code_of(user, b, r)) return false;
  }
  return true;
}

// A set of t tokens has at most t parents, so that width * num_codebooks children hold all the sets asked for.
__device__ inline void best_of_user(const BeamStep& args) {
  REG4REC_SHARED(memory);
  __shared__ int next;
  const long long user = blockIdx.x;
  Best<Child> best{(Child*)memory, &next, (int)args.kept, (int)args.capacity, no_child()};
  unsigned long long* hashes = (unsigned long long*)(best.keys + args.capacity);  // of the kept children's sets
  int* is_first = (int*)(hashes + args.kept);                                     // of its set

  bool is_living = false, is_consistent = false;
  for (long long path = threadIdx.x; path < args.num_paths; path += blockDim.x) {
    is_living = is_living || args.is_living(user, path);
    is_consistent = is_consistent || (args.is_living(user, path) && args.is_consistent(user, path));
  }
  const bool any_living = __syncthreads_or(is_living), any_consistent = __syncthreads_or(is_consistent);
  if (threadIdx.x == 0) args.fallback[user] = any_living && !any_consistent;

  best.begin();
  const long long num_children = args.num_paths * args.width;
  for (long long first = 0; first < num_children; first += blockDim.x) {
    const long long i = first + threadIdx.x;  // the best of each path come first
    Child child = no_child();
    if (i < num_children)
      child = args.children[(user * args.num_paths + i % args.num_paths) * args.width + i / args.num_paths];
    best.offer(child.score > -infinity() && best.beats(child), child);
  }
  best.end();

  for (int i = threadIdx.x; i < best.size; i += blockDim.x) {
    hashes[i] = 0;
    for (long long r = 0; r < args.num_codebooks; ++r) {
      const long long code = args.code_of(user, best.keys[i].position, r);
      if (code >= 0) hashes[i] += mix(r * args.codebook_size + code);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < best.size; i += blockDim.x) {
    bool repeats = false;
    for (int j = 0; j < i && !repeats; ++j) {
      repeats = hashes[i] == hashes[j] && same_set(args, user, best.keys[i].position, best.keys[j].position);
    }
    is_first[i] = !repeats;
  }
  __syncthreads();
  const long long num_tokens = args.num_codebooks * args.codebook_size;
  int rank = 0, counted = 0;
  for (int i = threadIdx.x; i < best.size; i += blockDim.x) {
    for (; counted < i; ++counted) rank += is_first[counted];
    if (!is_first[i] || rank >= args.width) continue;
    const long long to = user * args.width + rank;
    args.parent[to] = best.keys[i].position / num_tokens;
    args.token[to] = best.keys[i].position % num_tokens;
    args.best_scores[to] = (float)best.keys[i].score;
  }
  for (; counted < best.size; ++counted) rank += is_first[counted];
  for (long long missing = rank + threadIdx.x; missing < args.width; missing += blockDim.x) {
    args.parent[user * args.width + missing] = args.token[user * args.width + missing] = -1;
    args.best_scores[user * args.width + missing] = -infinity();
  }
}

}  // namespace reg4rec_device

extern "C" __global__ void beam_step_path_f32(reg4rec_device::BeamStep args) {
  reg4rec_device::best_of_path<float>(args);
}

extern "C" __global__ void beam_step_path_bf16(reg4rec_device::BeamStep args) {
  reg4rec_device::best_of_path<unsigned short>(args);
}

extern "C" __global__ void beam_step_user(reg4rec_device::BeamStep args) { reg4rec_device::best_of_user(args); }
