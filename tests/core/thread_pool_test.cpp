// The thread pool: every task once, exceptions, progress on the calling thread.
#include "revode/core/thread_pool.hpp"

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "support/error_text.hpp"

namespace revode {
namespace {

class Pool : public testing::TestWithParam<int> {
 protected:
  ThreadPool pool_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Threads, Pool, testing::Values(1, 2, 3, 4),
                         [](const auto& threads) { return std::to_string(threads.param); });

TEST_P(Pool, RunsEveryTaskOnceOnAThreadOfItsOwn) {
  ASSERT_EQ(pool_.num_threads(), GetParam());
  for (const int num_tasks : {0, 1, 2, 7, 1000}) {
    std::vector<std::atomic<int>> runs(num_tasks);
    std::atomic<int> strangers{0};

    pool_.parallel_for(num_tasks, [&](int index, int thread) {
      ++runs[index];
      strangers += thread < 0 || thread >= GetParam();
    });

    for (int index = 0; index < num_tasks; ++index) EXPECT_EQ(runs[index], 1) << index;
    EXPECT_EQ(strangers, 0);
  }
}

// Scratch is kept by thread number: no two tasks may run under one number at the same time.
TEST_P(Pool, OneThreadNumberRunsOneTaskAtATime) {
  std::vector<std::atomic<int>> inside(GetParam());
  std::atomic<int> overlaps{0};

  pool_.parallel_for(2000, [&](int, int thread) {
    overlaps += inside[thread]++ != 0;
    --inside[thread];
  });

  EXPECT_EQ(overlaps, 0);
}

TEST_P(Pool, RethrowsAnExceptionAndStaysUsable) {
  for (int round = 0; round < 20; ++round) {
    EXPECT_THROW(pool_.parallel_for(100,
                                    [&](int index, int) {
                                      if (index == 37) throw std::runtime_error("task 37");
                                    }),
                 std::runtime_error);

    std::atomic<int> runs{0};
    pool_.parallel_for(100, [&](int, int) { ++runs; });
    EXPECT_EQ(runs, 100);
  }
}

TEST_P(Pool, RethrowsOneOfManyExceptions) {
  EXPECT_THROW(pool_.parallel_for(50, [](int, int) { throw std::logic_error("all fail"); }),
               std::logic_error);
}

TEST_P(Pool, CallsProgressOnTheCallingThreadAlone) {
  const auto caller = std::this_thread::get_id();
  int calls = 0, elsewhere = 0;  // not atomic: one thread may touch them
  std::atomic<int> by_caller{0};
  pool_.set_progress([&] {
    ++calls;
    elsewhere += std::this_thread::get_id() != caller;
  });

  pool_.parallel_for(200, [&](int, int) { by_caller += std::this_thread::get_id() == caller; });

  EXPECT_EQ(elsewhere, 0);
  EXPECT_EQ(calls, by_caller);
  if (GetParam() == 1) {
    EXPECT_EQ(calls, 200);
  }
  pool_.set_progress({});
  pool_.parallel_for(10, [](int, int) {});
  EXPECT_EQ(calls, by_caller);
}

TEST_P(Pool, ManyShortLoopsLoseNothing) {
  constexpr int num_loops = 2000;
  std::atomic<std::int64_t> sum{0};

  for (int loop = 0; loop < num_loops; ++loop)
    pool_.parallel_for(3, [&](int index, int) { sum += index + 1; });

  EXPECT_EQ(sum, 6 * num_loops);
}

TEST(ThreadPool, RefusesToBeWithoutThreads) {
  EXPECT_NE(mistake_text([] { ThreadPool pool(0); }).find("0"), std::string::npos);
}

}  // namespace
}  // namespace revode
