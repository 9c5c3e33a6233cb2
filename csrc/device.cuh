// What the CUDA kernels share, for nvcc and for NVRTC: no host headers.
#pragma once

#include "call.h"

#ifndef REG4REC_SHARED  // the emulation on the CPU defines another
#define REG4REC_SHARED(name) extern __shared__ unsigned long long name[]
#endif

namespace reg4rec_device {

constexpr int kWarp = 32;
constexpr int kFilterWords = 128;  // words of the bit set into which a user's excluded items are hashed

__device__ inline float infinity() { return __uint_as_float(0x7f800000u); }

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(unsigned short bf16) { return __uint_as_float((unsigned)bf16 << 16); }

__device__ inline float warp_max(float x) {
  for (int lane = kWarp / 2; lane > 0; lane /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, lane);
    x = other > x ? other : x;
  }
  return x;
}

template <typename T>
__device__ inline T warp_sum(T x) {
  for (int lane = kWarp / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

// Integers of 2, 4 or 8 bytes.
struct Integers {
  const void* data;
  int64_t bytes;

  __device__ int64_t operator[](int64_t at) const {
    if (bytes == 8) return ((const int64_t*)data)[at];
    if (bytes == 4) return ((const int*)data)[at];
    return ((const short*)data)[at];
  }
};

// A user's excluded items: `count` entries from `first` on; negative ones are padding.
struct Exclusions {
  Integers items;
  int64_t first, stride, count;
  unsigned* bits;  // kFilterWords, shared; an item whose bit is clear is not excluded

  __device__ void begin() const {
    for (int word = threadIdx.x; word < kFilterWords; word += blockDim.x) bits[word] = 0;
    __syncthreads();
    for (int64_t x = threadIdx.x; x < count; x += blockDim.x) {
      const int64_t item = at(x);
      if (item >= 0) atomicOr(bits + word_of(item), 1u << item % 32);
    }
    __syncthreads();
  }

  __device__ int64_t at(int64_t x) const { return items[first + x * stride]; }

  __device__ bool hold(int64_t item) const {
    if (!(bits[word_of(item)] >> item % 32 & 1)) return false;
    for (int64_t x = 0; x < count; ++x) {
      if (at(x) == item) return true;
    }
    return false;
  }

  __device__ static int word_of(int64_t item) { return int(item / 32 % kFilterWords); }
};

__device__ inline bool better(int64_t a, int64_t b) { return a > b; }

// The best `kept` of the keys that the threads of a block offer. Keys better than the worst kept one are appended;
// before the next ones might not fit, the best are sorted to the front. All threads of the block must call begin, offer
// and end.
template <typename Key>
struct Best {
  Key* keys;  // shared, `capacity` of them: a power of two, at least kept + blockDim.x
  int* next;  // shared: the end of the keys
  int kept, capacity;
  Key nothing;  // worse than every key
  int size = 0;
  bool full = false;  // there are `kept` keys, sorted: the worst is the last

  __device__ void begin() {
    if (threadIdx.x == 0) *next = 0;
    __syncthreads();
  }

  __device__ bool beats(const Key& key) const { return !full || better(key, keys[kept - 1]); }

  // Appends this thread's key if `taken`, which the caller computes by beats.
  __device__ void offer(bool taken, const Key& key) {
    if (taken) keys[atomicAdd(next, 1)] = key;
    size += __syncthreads_count(taken);
    if (size + (int)blockDim.x > capacity) end();
  }

  // Leaves the best `size` keys, sorted.
  __device__ void end() {
    sort();
    full = size >= kept;
    if (full) size = kept;
    if (threadIdx.x == 0) *next = size;
    __syncthreads();
  }

 private:
  // Bitonic sort: compares pairs `step` apart, within runs of alternating order.
  __device__ void sort() {
    int length = 1;
    while (length < size) length *= 2;
    for (int i = size + threadIdx.x; i < length; i += blockDim.x) keys[i] = nothing;
    for (int run = 2; run <= length; run *= 2) {
      for (int step = run / 2; step > 0; step /= 2) {
        __syncthreads();
        for (int i = threadIdx.x; i < length / 2; i += blockDim.x) {
          const int low = 2 * i - (i & (step - 1)), high = low + step;
          if (better(keys[high], keys[low]) == ((low & run) == 0)) {
            const Key key = keys[low];
            keys[low] = keys[high];
            keys[high] = key;
          }
        }
      }
    }
    __syncthreads();
  }
};

}  // namespace reg4rec_device
