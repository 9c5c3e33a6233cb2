#include "threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace reg4rec {
namespace {

struct Job {
  RangeTask task;
  const void* context;
  int64_t size, grain;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error = nullptr;  // the first one; written to by the thread that set `failed`

  void drain() {
    try {
      for (int64_t begin; (begin = next.fetch_add(grain, std::memory_order_relaxed)) < size;) {
        task(context, begin, std::min(begin + grain, size));
      }
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
      next.store(size, std::memory_order_relaxed);
    }
  }
};

class ThreadPool {
 public:
  // Does not wait for helpers that wake after the last range was taken. While another job runs, this thread works
  // alone.
  void run(int num_helpers, Job& job) {
    std::unique_lock<std::mutex> entry(entry_, std::try_to_lock);
    if (!entry.owns_lock()) return job.drain();
    while (static_cast<int>(workers_.size()) < num_helpers) workers_.emplace_back([this] { work(); });
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      seats_ = num_helpers;
    }
    for (int i = 0; i < num_helpers; ++i) start_.notify_one();
    job.drain();
    std::unique_lock<std::mutex> lock(mutex_);
    seats_ = 0;
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      start_.wait(lock, [this] { return seats_ > 0; });
      --seats_;
      ++running_;
      Job* job = job_;
      lock.unlock();
      job->drain();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex entry_, mutex_;
  std::condition_variable start_, done_;
  std::vector<std::thread> workers_;
  Job* job_ = nullptr;
  int seats_ = 0, running_ = 0;
};

// Never destroyed: its threads sleep until the process ends. A forked child has none of them and starts a fresh pool.
ThreadPool* pool = nullptr;

ThreadPool& current_pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool = new ThreadPool;
    pthread_atfork(nullptr, nullptr, [] { pool = new ThreadPool; });
  });
  return *pool;
}

}  // namespace

void run_ranges(int num_threads, int64_t size, int64_t grain, RangeTask task, const void* context) {
  if (size <= 0) return;
  const int64_t num_ranges = (size + grain - 1) / grain;
  const int num_helpers = static_cast<int>(std::min<int64_t>(num_threads, num_ranges)) - 1;
  if (num_helpers <= 0) return task(context, 0, size);
  Job job{task, context, size, grain};
  current_pool().run(num_helpers, job);
  if (job.error != nullptr) std::rethrow_exception(job.error);
}

}  // namespace reg4rec
