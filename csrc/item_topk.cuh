// Device code of item_topk, for nvcc and for NVRTC (definition: kernels/item_topk).
// A block finds the best items of a range for some users, then a block per user the best of all ranges.
#pragma once

#include "device.cuh"
#include "item_topk_call.h"

namespace reg4rec_device {

constexpr int64_t kNoItem = -0x7fffffffffffffffll - 1;
constexpr int kUsersAtOnce = 4;  // they share the items' codes, and have their tables in shared memory

using reg4rec::ItemTopk;

// Orders by score, then by lowest item.
__device__ inline int64_t make_key(float score, int64_t item) {
  const int bits = __float_as_int(score);
  const unsigned ordered = bits < 0 ? bits ^ 0x7fffffff : bits;
  return (int64_t)((unsigned long long)ordered << 32 | (0xffffffffu - (unsigned)item));
}

__device__ inline float key_score(int64_t key) {
  const int ordered = (int)(key >> 32);
  return __int_as_float(ordered < 0 ? ordered ^ 0x7fffffff : ordered);
}

// With one user at a time the log-probabilities are read in place, else from tables in shared memory.
template <int kUsers>
__device__ inline void best_of_range(const ItemTopk& args) {
  REG4REC_SHARED(memory);
  __shared__ int next[kUsers];
  __shared__ unsigned filters[kUsers][kFilterWords];
  const int64_t range = blockIdx.x % args.num_ranges, first_user = blockIdx.x / args.num_ranges * kUsers;
  const int64_t begin = range * args.range_size, limit = begin + args.range_size;
  const int64_t end = limit < args.num_items ? limit : args.num_items;
  const Integers ids{args.ids.data, args.ids.bytes};
  const int table_size = (int)(args.num_books * args.num_codes);

  Best<int64_t> best[kUsers];
  Exclusions excluded[kUsers];
  float* tables = (float*)(memory + kUsers * args.capacity);  // (kUsers, num_books, num_codes)
#pragma unroll
  for (int u = 0; u < kUsers; ++u) {
    const int64_t user = first_user + u;
    if (user >= args.num_users) break;
    best[u] = {(int64_t*)memory + u * args.capacity, next + u, (int)args.k, (int)args.capacity, kNoItem};
    best[u].begin();
    excluded[u] = {{args.exclude.data, args.exclude.bytes},
                   args.exclude.offset(user),
                   args.exclude.strides[1],
                   args.num_excluded,
                   filters[u]};
    excluded[u].begin();
    if constexpr (kUsers > 1) {
      for (int i = threadIdx.x; i < table_size; i += blockDim.x) {
        const int64_t book = i / args.num_codes, code = i % args.num_codes;
        tables[u * table_size + i] = args.log_probs(user, book, code);
      }
    }
  }
  __syncthreads();

  for (int64_t first = begin; first < end; first += blockDim.x) {
    const int64_t item = first + threadIdx.x;
    float scores[kUsers] = {};  // sums start at 0, since a key of -0.0 would sort below one of 0.0
    for (int64_t book = 0; book < args.num_books && item < end; ++book) {
      const int64_t code = ids[args.ids.offset(item, book)];
      if (kUsers == 1) {
        scores[0] += args.log_probs(first_user, book, code);
      } else {
#pragma unroll
        for (int u = 0; u < kUsers; ++u) scores[u] += tables[u * table_size + book * args.num_codes + code];
      }
    }
#pragma unroll
    for (int u = 0; u < kUsers; ++u) {
      if (first_user + u >= args.num_users) break;
      const int64_t key = make_key(scores[u], item);
      const bool is_number = item < end && scores[u] > -infinity();
      best[u].offer(is_number && best[u].beats(key) && !excluded[u].hold(item), key);
    }
  }
#pragma unroll
  for (int u = 0; u < kUsers; ++u) {
    if (first_user + u >= args.num_users) break;
    best[u].end();
    int64_t* keys = args.keys + ((first_user + u) * args.num_ranges + range) * args.k;
    for (int i = threadIdx.x; i < args.k; i += blockDim.x) keys[i] = i < best[u].size ? best[u].keys[i] : kNoItem;
  }
}

__device__ inline void best_of_ranges(const ItemTopk& args) {
  REG4REC_SHARED(memory);
  __shared__ int next;
  const int64_t user = blockIdx.x, num_keys = args.num_ranges * args.k;
  Best<int64_t> best{(int64_t*)memory, &next, (int)args.k, (int)args.capacity, kNoItem};
  best.begin();
  for (int64_t first = 0; first < num_keys; first += blockDim.x) {
    const int64_t i = first + threadIdx.x;  // the best of each range come first
    const int64_t key = i < num_keys
                            ? args.keys[(user * args.num_ranges + i % args.num_ranges) * args.k + i / args.num_ranges]
                            : kNoItem;
    best.offer(key != kNoItem && best.beats(key), key);
  }
  best.end();
  for (int i = threadIdx.x; i < args.k; i += blockDim.x) {
    const bool is_there = i < best.size;
    args.scores[user * args.k + i] = is_there ? key_score(best.keys[i]) : -infinity();
    args.items[user * args.k + i] = is_there ? (int64_t)(0xffffffffu - (unsigned)best.keys[i]) : -1;
  }
}

}  // namespace reg4rec_device

extern "C" __global__ void item_topk_tables(reg4rec_device::ItemTopk args) {
  reg4rec_device::best_of_range<reg4rec_device::kUsersAtOnce>(args);
}

extern "C" __global__ void item_topk_direct(reg4rec_device::ItemTopk args) { reg4rec_device::best_of_range<1>(args); }

extern "C" __global__ void item_topk_merge(reg4rec_device::ItemTopk args) { reg4rec_device::best_of_ranges(args); }
