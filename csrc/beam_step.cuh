// Device code of beam_step, for nvcc and for NVRTC (definition: kernels/beam_step).
// A block per path finds its best children, then a block per user the best of all paths. Scores are fp64, because
// parents and tokens must be those of the exact result.
#pragma once

#include "beam_step_call.h"
#include "device.cuh"

namespace reg4rec_device {

constexpr double kGrid = 393216;  // as in beam_step.cpp
constexpr int kMostCodebooks = 32;

struct Child {
  double score;
  int64_t position;  // (path * num_codebooks + codebook) * codebook_size + code
};

__device__ inline bool better(const Child& a, const Child& b) {
  return a.score > b.score || (a.score == b.score && a.position < b.position);
}

__device__ inline Child no_child() { return {-infinity(), 0x7fffffffffffffffll}; }

using reg4rec::BeamStep;

__device__ inline bool is_living(const BeamStep& args, int64_t user, int64_t path) {
  return args.scores(user, path) > -infinity();
}

__device__ inline bool is_consistent(const BeamStep& args, int64_t user, int64_t path) {
  return args.js.data == nullptr || args.js(user, path) <= (float)args.threshold;
}

// Orders the paths of a user who has no consistent one: NaN and infinity come last.
__device__ inline float divergence(const BeamStep& args, int64_t user, int64_t path) {
  const float most = __uint_as_float(0x7f7fffffu), found = args.js(user, path);
  return found < most ? found : most;
}

// The token of a child in codebook r, -1 if it has none.
__device__ inline int64_t code_of(const BeamStep& args, int64_t user, int64_t position, int64_t r) {
  const int64_t num_tokens = args.num_codebooks * args.codebook_size, token = position % num_tokens;
  if (r == token / args.codebook_size) return token % args.codebook_size;
  return args.tokens(user, position / num_tokens, r);
}

// A list of the index: item rows, ascending.
struct Postings {
  const int* rows;
  int64_t first, last;

  __device__ int64_t size() const { return last - first; }
};

__device__ inline Postings posting_list(const BeamStep& args, int64_t r, int64_t code) {
  const int64_t* offset = args.offsets + r * args.codebook_size + code;
  return {args.postings, offset[0], offset[1]};
}

// The list of tokens (r, i) and (s, j).
__device__ inline Postings pair_list(const BeamStep& args, int64_t r, int64_t i, int64_t s, int64_t j) {
  const int64_t low = r < s ? r : s, high = r < s ? s : r;
  const int64_t books = low * (2 * args.num_codebooks - low - 1) / 2 + high - low - 1;
  const int64_t code = r < s ? i * args.codebook_size + j : j * args.codebook_size + i;
  const int64_t* offset = args.pair_offsets + books * args.codebook_size * args.codebook_size + code;
  return {args.pair_postings, offset[0], offset[1]};
}

// Whether CORP keeps a path: one of the best consistent ones, or the least divergent one if there are none.
__device__ inline bool keeps(const BeamStep& args, int64_t user, int64_t path) {
  __shared__ int num_consistent, num_better, num_closer;
  if (!is_living(args, user, path)) return false;
  if (threadIdx.x == 0) num_consistent = num_better = num_closer = 0;
  __syncthreads();
  const float score = args.scores(user, path);
  for (int64_t other = threadIdx.x; other < args.num_paths; other += blockDim.x) {
    if (!is_living(args, user, other)) continue;
    if (is_consistent(args, user, other)) {
      const float other_score = args.scores(user, other);
      atomicAdd(&num_consistent, 1);
      if (other_score > score || (other_score == score && other < path)) atomicAdd(&num_better, 1);
    } else if (other != path) {
      const float theirs = divergence(args, user, other), own = divergence(args, user, path);
      if (theirs < own || (theirs == own && other < path)) atomicAdd(&num_closer, 1);
    }
  }
  __syncthreads();
  return is_consistent(args, user, path) ? num_better < args.num_beams : num_consistent == 0 && num_closer == 0;
}

// The tokens with which a path can still reach an existing, allowed item, as bits in shared memory.
struct OpenTokens {
  unsigned* bits;  // (num_codebooks, num_words)
  int num_words;

  __device__ bool has(int r, int code) const { return bits[r * num_words + code / 32] >> code % 32 & 1; }

  __device__ void open(int r, int code) const { atomicOr(bits + r * num_words + code / 32, 1u << code % 32); }

  __device__ void close(int r, int code) const { atomicAnd(bits + r * num_words + code / 32, ~(1u << code % 32)); }

  // Before the first token: the tokens with an item that is not excluded.
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
    for (int64_t i = threadIdx.x; i < excluded.count * num_books; i += blockDim.x) {
      const int64_t item = excluded.at(i / num_books);
      const int r = (int)(i % num_books);
      if (item < 0) continue;
      const int code = args.codes[item * num_books + r];
      if (hold_all(excluded, posting_list(args, r, code))) close(r, code);
    }
    __syncthreads();
  }

  // After one token (book, code), if pairs are listed: the tokens whose pair with it has an item that is not excluded.
  __device__ void begin_beside(const BeamStep& args, const Exclusions& excluded, int book, int64_t code) const {
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
    for (int64_t i = threadIdx.x; i < excluded.count * num_books; i += blockDim.x) {
      const int64_t item = excluded.at(i / num_books);
      const int r = (int)(i % num_books);
      if (item < 0 || r == book || args.codes[item * num_books + book] != code) continue;
      const int other = args.codes[item * num_books + r];
      if (hold_all(excluded, pair_list(args, book, code, r, other))) close(r, other);
    }
    __syncthreads();
  }

  __device__ static bool hold_all(const Exclusions& excluded, const Postings& list) {
    if (list.size() > excluded.count) return false;
    int64_t at = list.first;
    while (at < list.last && excluded.hold(list.rows[at])) ++at;
    return at == list.last;
  }

  // Otherwise: the tokens of the items that carry all tokens of the path, found in its shortest posting list.
  __device__ void begin_after(const BeamStep& args, const Exclusions& excluded, const int64_t* codes) const {
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
    for (int64_t at = list.first + threadIdx.x; at < list.last; at += blockDim.x) {
      const int item = list.rows[at];
      const int* row = args.codes + (int64_t)item * num_books;
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
  __shared__ int64_t codes[kMostCodebooks];
  __shared__ double largest[kMostCodebooks], log_sums[kMostCodebooks];
  const int64_t user = blockIdx.x / args.num_paths, path = blockIdx.x % args.num_paths;
  const int num_books = (int)args.num_codebooks, size = (int)args.codebook_size;
  Best<Child> best{(Child*)memory, &next, (int)args.kept, (int)args.capacity, no_child()};
  best.begin();

  if (keeps(args, user, path)) {
    int num_used = 0, last_used = 0;
    for (int r = threadIdx.x; r < num_books; r += blockDim.x) {
      codes[r] = args.tokens(user, path, r);
    }
    const Exclusions excluded{
        {args.exclude.data, 8}, args.exclude.offset(user), args.exclude.strides[1], args.num_excluded, filter};
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

    const In* logits = (const In*)args.logits.data + args.logits.offset(user, path);
    const int64_t stride_m = args.logits.strides[2], stride_k = args.logits.strides[3];
    const int lane = threadIdx.x % kWarp;
    for (int r = threadIdx.x / kWarp; r < num_books; r += blockDim.x / kWarp) {
      if (codes[r] >= 0) continue;
      const In* row = logits + r * stride_m;
      float most = -infinity();
      for (int code = lane; code < size; code += kWarp) {
        if (args.renormalize && !open.has(r, code)) continue;
        const float x = to_float(row[code * stride_k]);
        most = x > most ? x : most;
      }
      most = warp_max(most);
      double sum = 0;  // NaN where the row holds NaN or +inf, or -inf only
      for (int code = lane; code < size; code += kWarp) {
        if (args.renormalize && !open.has(r, code)) continue;
        sum += exp((double)to_float(row[code * stride_k]) - most);
      }
      sum = warp_sum(sum);
      if (lane == 0) largest[r] = most, log_sums[r] = log(sum);
    }
    __syncthreads();

    const double path_score = args.scores(user, path);
    for (int first = 0; first < num_books * size; first += blockDim.x) {
      const int token = first + threadIdx.x, r = token / size, code = token % size;
      Child child = no_child();
      if (token < num_books * size && open.has(r, code)) {
        const double logit = to_float(logits[r * stride_m + code * stride_k]);
        // in the order of torch's log_softmax, so that the same children tie
        child.score = path_score + ((logit - largest[r]) - log_sums[r]) + kGrid - kGrid;
        child.position = path * num_books * size + token;
      }
      best.offer(child.score > -infinity() && best.beats(child), child);
    }
  }
  best.end();
  Child* children = (Child*)args.children + (user * args.num_paths + path) * args.width;
  for (int i = threadIdx.x; i < args.width; i += blockDim.x) children[i] = i < best.size ? best.keys[i] : no_child();
}

// Spreads a token over 64 bits, so that different sets have different sums.
__device__ inline unsigned long long mix(unsigned long long x) {
  x = (x + 1) * 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
  return x ^ (x >> 32);
}

// Whether two children have the same tokens.
__device__ inline bool same_set(const BeamStep& args, int64_t user, int64_t a, int64_t b) {
  for (int64_t r = 0; r < args.num_codebooks; ++r) {
    if (code_of(args, user, a, r) != code_of(args, user, b, r)) return false;
  }
  return true;
}

// A set of t tokens has at most t parents, so width * num_codebooks children contain `width` different sets.
__device__ inline void best_of_user(const BeamStep& args) {
  REG4REC_SHARED(memory);
  __shared__ int next;
  const int64_t user = blockIdx.x;
  Best<Child> best{(Child*)memory, &next, (int)args.kept, (int)args.capacity, no_child()};
  unsigned long long* hashes = (unsigned long long*)(best.keys + args.capacity);  // of the kept children's sets
  int* is_first = (int*)(hashes + args.kept);                                     // of its set

  bool living = false, consistent = false;
  for (int64_t path = threadIdx.x; path < args.num_paths; path += blockDim.x) {
    living = living || is_living(args, user, path);
    consistent = consistent || (is_living(args, user, path) && is_consistent(args, user, path));
  }
  const bool any_living = __syncthreads_or(living), any_consistent = __syncthreads_or(consistent);
  if (threadIdx.x == 0) args.fallback[user] = any_living && !any_consistent;

  best.begin();
  const int64_t num_children = args.num_paths * args.width;
  for (int64_t first = 0; first < num_children; first += blockDim.x) {
    const int64_t i = first + threadIdx.x;  // the best of each path come first
    Child child = no_child();
    if (i < num_children)
      child =
          ((const Child*)args.children)[(user * args.num_paths + i % args.num_paths) * args.width + i / args.num_paths];
    best.offer(child.score > -infinity() && best.beats(child), child);
  }
  best.end();

  for (int i = threadIdx.x; i < best.size; i += blockDim.x) {
    hashes[i] = 0;
    for (int64_t r = 0; r < args.num_codebooks; ++r) {
      const int64_t code = code_of(args, user, best.keys[i].position, r);
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
  const int64_t num_tokens = args.num_codebooks * args.codebook_size;
  int rank = 0, counted = 0;
  for (int i = threadIdx.x; i < best.size; i += blockDim.x) {
    for (; counted < i; ++counted) rank += is_first[counted];
    if (!is_first[i] || rank >= args.width) continue;
    const int64_t to = user * args.width + rank;
    args.parent[to] = best.keys[i].position / num_tokens;
    args.token[to] = best.keys[i].position % num_tokens;
    args.best_scores[to] = (float)best.keys[i].score;
  }
  for (; counted < best.size; ++counted) rank += is_first[counted];
  for (int64_t missing = rank + threadIdx.x; missing < args.width; missing += blockDim.x) {
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
