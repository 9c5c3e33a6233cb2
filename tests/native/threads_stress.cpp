// Several threads call the pool at once, as several Python threads do; ThreadSanitizer watches. Exit status 1: a range
// was missed or visited twice.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#include "threads.h"

namespace {

constexpr int kCallers = 4, kRounds = 2000;

std::atomic<int> wrong{0};

void add_one(void* context, int64_t begin, int64_t end) {
  auto& visits = *static_cast<std::vector<int>*>(context);
  for (int64_t i = begin; i < end; ++i) ++visits[i];
}

void hammer(int caller) {
  for (int round = 0; round < kRounds; ++round) {
    const int64_t size = (round * 7 + caller) % 101;
    std::vector<int> visits(size);
    reg4rec::parallel_for(1 + round % 4, size, 1 + round % 5, add_one, &visits);
    for (int visit : visits) wrong += visit != 1;
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
