// Threads of one rank, kept for its lifetime. Which thread runs a task is left to chance: results
// must not depend on it.
#pragma once

#include <functional>
#include <memory>

namespace revode {

class ThreadPool {
 public:
  /// `num_threads` >= 1 counts the calling thread.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  /// Runs task(index, thread) for index in [0, num_tasks), handed out one by one in ascending
  /// order; `thread` is in [0, num_threads). Returns when all are done. The first exception of a
  /// task is rethrown here. Not re-entrant.
  void parallel_for(int num_tasks, const std::function<void(int index, int thread)>& task);

  /// Called on the calling thread after each task that it runs itself (the executor moves messages
  /// along there).
  void set_progress(std::function<void()> progress);

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace revode
