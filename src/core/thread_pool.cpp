#include "revode/core/thread_pool.hpp"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "revode/core/error.hpp"

namespace revode {

struct ThreadPool::Shared {
  std::mutex mutex;
  std::condition_variable work_available;
  std::condition_variable work_done;
  std::uint64_t generation = 0;  // of the current parallel_for; guarded by mutex
  int num_busy = 0;              // workers inside it; guarded by mutex
  bool stopping = false;         // guarded by mutex
  std::exception_ptr failure;    // guarded by mutex

  const std::function<void(int, int)>* task = nullptr;
  int num_tasks = 0;
  std::atomic<int> next_task{0};

  std::function<void()> progress;
  std::vector<std::jthread> workers;

  // Takes tasks until none is left. Only the caller's thread (0) moves messages along.
  void run(int thread) {
    for (int index = next_task++; index < num_tasks; index = next_task++) {
      try {
        (*task)(index, thread);
        if (thread == 0 && progress) progress();
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next_task = num_tasks;
      }
    }
  }

  void worker(int thread) {
    std::uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock lock(mutex);
        work_available.wait(lock, [&] { return stopping || generation != seen; });
        if (stopping) return;
        seen = generation;
      }
      run(thread);
      const std::lock_guard lock(mutex);
      if (--num_busy == 0) work_done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : shared_(std::make_unique<Shared>()) {
  REVODE_CHECK(num_threads >= 1, "a thread pool needs at least one thread, not {}", num_threads);
  for (int thread = 1; thread < num_threads; ++thread) {
    shared_->workers.emplace_back([shared = shared_.get(), thread] { shared->worker(thread); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->stopping = true;
  }
  shared_->work_available.notify_all();
  shared_->workers.clear();  // joins
}

int ThreadPool::num_threads() const { return static_cast<int>(shared_->workers.size()) + 1; }

void ThreadPool::set_progress(std::function<void()> progress) {
  shared_->progress = std::move(progress);
}

void ThreadPool::parallel_for(int num_tasks, const std::function<void(int, int)>& task) {
  Shared& shared = *shared_;
  {
    const std::lock_guard lock(shared.mutex);
    shared.task = &task;
    shared.num_tasks = num_tasks;
    shared.next_task = 0;
    shared.failure = nullptr;
    shared.num_busy = static_cast<int>(shared.workers.size());
    ++shared.generation;
  }
  shared.work_available.notify_all();
  shared.run(0);
  std::unique_lock lock(shared.mutex);
  shared.work_done.wait(lock, [&] { return shared.num_busy == 0; });
  if (shared.failure) std::rethrow_exception(std::exchange(shared.failure, nullptr));
}

}  // namespace revode
