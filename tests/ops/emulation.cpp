// Runs the CUDA kernels on the CPU. The threads of a block are fibers that take turns between barriers, in a new
// random order each time; shared memory starts as NaN and is guarded.
#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace emulation {

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Index {
  unsigned x;
};

struct Fiber {
  std::vector<char> stack;
  ucontext_t start;
  jmp_buf at;
  bool is_started;
  State state;
  uint64_t value;  // what the others of its warp or block get from it
};

constexpr size_t kStack = 1 << 16, kGuard = 64;
constexpr unsigned kWarp = 32;

std::vector<Fiber> fibers;
jmp_buf scheduler;
unsigned current, votes;
std::mt19937 draw(0);
unsigned long long* shared;
void (*body)();

void run_body() {
  body();
  fibers[current].state = State::kDone;
  _longjmp(scheduler, 1);
}

void wait(State where) {
  Fiber& fiber = fibers[current];
  fiber.state = where;
  if (_setjmp(fiber.at) == 0) _longjmp(scheduler, 1);
}

void resume(unsigned thread);

}  // namespace emulation

static emulation::Index blockIdx, threadIdx, blockDim, gridDim;

void emulation::resume(unsigned thread) {
  Fiber& fiber = fibers[thread];
  current = threadIdx.x = thread;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.is_started) _longjmp(fiber.at, 1);
  fiber.is_started = true;
  setcontext(&fiber.start);
}

#define __device__
#define __global__
#define __shared__ static
#define REG4REC_SHARED(name) unsigned long long* name = emulation::shared

static void __syncthreads() { emulation::wait(emulation::State::kAtBlock); }
static int __syncthreads_count(int vote) {
  emulation::fibers[emulation::current].value = vote != 0;
  __syncthreads();
  return emulation::votes;
}
static int __syncthreads_or(int vote) { return __syncthreads_count(vote) != 0; }

template <typename T>
static T __shfl_xor_sync(unsigned, T x, int lane) {
  static_assert(sizeof(T) <= 8, "one register or two");
  memcpy(&emulation::fibers[emulation::current].value, &x, sizeof(T));
  emulation::wait(emulation::State::kAtWarp);
  T other;
  memcpy(&other, &emulation::fibers[emulation::current ^ lane].value, sizeof(T));
  emulation::wait(emulation::State::kAtWarp);
  return other;
}

template <typename To, typename From>
static To bits_as(From from) {
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
static float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
static float __int_as_float(int bits) { return bits_as<float>(bits); }
static int __float_as_int(float x) { return bits_as<int>(x); }

static int atomicAdd(int* at, int x) { return (*at += x) - x; }
static void atomicOr(unsigned* at, unsigned x) { *at |= x; }
static void atomicAnd(unsigned* at, unsigned x) { *at &= x; }

#include "kernels.cuh"

namespace emulation {

// Resumes the threads whose barrier all others have reached; false if there are none.
bool release() {
  bool any = false;
  const auto all = [](auto begin, auto end, State state) {
    return std::all_of(begin, end, [state](const Fiber& fiber) { return fiber.state == state; });
  };
  for (auto warp = fibers.begin(); warp < fibers.end(); warp += kWarp) {
    if (!all(warp, warp + kWarp, State::kAtWarp)) continue;
    for (auto fiber = warp; fiber < warp + kWarp; ++fiber) fiber->state = State::kReady;
    any = true;
  }
  if (all(fibers.begin(), fibers.end(), State::kAtBlock)) {
    votes = 0;
    for (Fiber& fiber : fibers) votes += fiber.value & 1, fiber.state = State::kReady;
    any = true;
  }
  return any;
}

const char* run_block() {
  for (Fiber& fiber : fibers) {
    fiber.stack.resize(kStack);
    fiber.is_started = false;
    fiber.state = State::kReady;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.data();
    fiber.start.uc_stack.ss_size = kStack;
    makecontext(&fiber.start, run_body, 0);
  }
  std::vector<unsigned> order(fibers.size());
  for (unsigned thread = 0; thread < order.size(); ++thread) order[thread] = thread;
  do {
    std::shuffle(order.begin(), order.end(), draw);
    for (unsigned thread : order) {
      if (fibers[thread].state == State::kReady) resume(thread);
    }
  } while (release());
  for (const Fiber& fiber : fibers) {
    if (fiber.state != State::kDone) return "some threads wait at a barrier to which others do not come";
  }
  return nullptr;
}

const char* run_grid(unsigned grid, unsigned block, size_t shared_bytes) {
  std::vector<unsigned long long> memory((shared_bytes + kGuard) / 8 + 1);
  char* end = reinterpret_cast<char*>(memory.data()) + shared_bytes;
  shared = memory.data();
  fibers = std::vector<Fiber>(block);
  blockDim.x = block;
  gridDim.x = grid;
  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
    memset(memory.data(), 0xff, memory.size() * 8);
    if (const char* problem = run_block()) return problem;
    if (!std::all_of(end, end + kGuard, [](char c) { return c == '\xff'; })) return "shared memory was too small";
  }
  return nullptr;
}

template <typename Arguments>
struct Launcher {
  inline static Arguments arguments;
  inline static void (*kernel)(Arguments);

  static const char* run(void (*which)(Arguments), const void* bytes, size_t num_bytes, unsigned grid, unsigned block,
                         size_t shared_bytes) {
    if (num_bytes != sizeof(Arguments)) return "the arguments are not those of the kernel";
    memcpy(&arguments, bytes, num_bytes);
    kernel = which;
    body = [] { kernel(arguments); };
    return run_grid(grid, block, shared_bytes);
  }
};

template <typename Arguments>
const char* launch(void (*kernel)(Arguments), const void* bytes, size_t num_bytes, unsigned grid, unsigned block,
                   size_t shared_bytes) {
  return Launcher<Arguments>::run(kernel, bytes, num_bytes, grid, block, shared_bytes);
}

}  // namespace emulation

// Returns what went wrong, or null.
extern "C" const char* launch(const char* name, unsigned grid, unsigned block, size_t shared_bytes, const void* bytes,
                              size_t num_bytes) {
#define REG4REC_ENTRY(kernel) \
  if (strcmp(name, #kernel) == 0) return emulation::launch(kernel, bytes, num_bytes, grid, block, shared_bytes);
  REG4REC_KERNELS(REG4REC_ENTRY)
#undef REG4REC_ENTRY
  return "there is no such kernel";
}
