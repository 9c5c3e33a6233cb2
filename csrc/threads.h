// One small pool of threads for all CPU ops.
#pragma once

#include <cstdint>

namespace reg4rec {

using RangeTask = void (*)(const void* context, int64_t begin, int64_t end);

void run_ranges(int num_threads, int64_t size, int64_t grain, RangeTask task, const void* context);

// Calls task(begin, end) for ranges (of `grain` on several threads) that cover 0..size once, on up to num_threads
// threads including this one. Which thread takes which range varies; a task must give the same result for any split.
// If a task throws, for instance for lack of memory, no further range begins and the exception is thrown here.
template <typename Task>
void parallel_for(int num_threads, int64_t size, int64_t grain, const Task& task) {
  const RangeTask call = [](const void* context, int64_t begin, int64_t end) {
    (*static_cast<const Task*>(context))(begin, end);
  };
  run_ranges(num_threads, size, grain, call, &task);
}

}  // namespace reg4rec
