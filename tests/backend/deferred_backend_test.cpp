// Mistakes that would pass unseen on a CPU, planted: each must fail with the deferred backend.
#include "support/deferred_backend.hpp"

#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "revode/backend/memory.hpp"

namespace revode {
namespace {

TEST(DeferredBackendDeathTest, AHostThatFollowsAPointerIsStopped) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  DeferredBackend<float> backend;
  Buffer<float> array(4, Memory::state, backend.space());

  EXPECT_DEATH(array[1] = 1, "");
  EXPECT_DEATH({ std::exit(array[1] == 0 ? 0 : 1); }, "");
}

TEST(DeferredBackend, AResultReadBeforeItsMarkIsPoison) {
  DeferredBackend<float> backend;
  Buffer<float> array(2, Memory::state, backend.space());
  std::vector<float> result(2, 5);

  backend.copy_out(result.data(), array.data(), sizeof(float) * 2);
  EXPECT_TRUE(std::isnan(result[0]));
  EXPECT_TRUE(std::isnan(result[1]));

  backend.wait(backend.mark());
  EXPECT_EQ(result, (std::vector<float>{0, 0}));
}

// The host fills an array again while its copy is still under way.
TEST(DeferredBackend, AMissingWaitShowsInTheNumbers) {
  DeferredBackend<float> backend;
  const auto first_of = [&](bool waits) {
    Buffer<float> array(1, Memory::state, backend.space());
    float value = 1;
    backend.copy_in(array.data(), &value, sizeof value);
    if (waits) backend.wait(backend.mark());
    value = 2;  // of the next micro-batch
    float result = 0;
    backend.copy_out(&result, array.data(), sizeof result);
    backend.wait(backend.mark());
    return result;
  };

  EXPECT_EQ(first_of(true), 1);
  EXPECT_EQ(first_of(false), 2);
}

TEST(DeferredBackend, RunsNothingBehindTheMark) {
  DeferredBackend<float> backend;
  StagedBuffer<int> early(1, Memory::state, backend), late(1, Memory::state, backend);
  early.host()[0] = 7;
  early.store();
  early.fetch();
  const Mark first = backend.mark();
  late.fetch();

  backend.wait(first);

  EXPECT_EQ(early.host()[0], 7);
  EXPECT_TRUE(backend.reached(first));
  int now = 0;
  std::vector<int> poisoned(1, 3);
  backend.copy_out(poisoned.data(), late.data(), sizeof(int));
  backend.wait(first);  // reached: runs nothing
  now = poisoned[0];
  EXPECT_EQ(now, -1);
  EXPECT_EQ(late.host()[0], 0);
}

}  // namespace
}  // namespace revode
