// One small pool of threads for all CPU ops.
#pragma once

#include <cstdint>

namespace reg4rec {

using RangeTask = void (*)(void* context, int64_t begin, int64_t end);

// Calls task on ranges (of `grain` on several threads) that cover 0..size once, on up to num_threads threads including
// this one. Which thread takes which range varies; a task must give the same result for any split. What a task throws,
// out of memory say, ends the ranges that have not begun and is thrown here.
void parallel_for(int num_threads, int64_t size, int64_t grain, RangeTask task, void* context);

}  // namespace reg4rec
