// Several threads call the pool at once, as several Python threads do; ThreadSanitizer watches. Exit status 1: a range
// was missed or visited twice, or an exception of a task was lost.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <new>
#include <thread>
#include <vector>

#include "threads.h"

namespace {

constexpr int kCallers = 4, kRounds = 2000;

std::atomic<int> wrong{0};

bool arrives(int num_threads, int64_t size) {
  try {
    reg4rec::parallel_for(num_threads, size, 3, [](int64_t begin, int64_t end) {
      if (begin <= 50 && 50 < end) throw std::bad_alloc();
    });
  } catch (const std::bad_alloc&) {
    return true;
  }
  return false;
}

void hammer(int caller) {
  for (int round = 0; round < kRounds; ++round) {
    const int64_t size = (round * 7 + caller) % 101;
    std::vector<int> visits(size);
    reg4rec::parallel_for(1 + round % 4, size, 1 + round % 5, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++visits[i];
    });
    for (int visit : visits) wrong += visit != 1;
    wrong += arrives(1 + round % 4, size) != (size > 50);
  }
}

}  // namespace

int main() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) callers.emplace_back(hammer, caller);
  for (std::thread& caller : callers) caller.join();
  std::printf("%d wrong\n", wrong.load());
  return wrong != 0;
}
