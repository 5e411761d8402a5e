// When a save that failed is tried again.
#include "revode/run/save_retry.hpp"

#include <vector>

#include <gtest/gtest.h>

namespace revode {
namespace {

TEST(SaveRetry, NothingIsDueUnlessASaveFailed) {
  SaveRetry retry;
  EXPECT_FALSE(retry.is_due(1e9));
  retry.failed(5);
  retry.succeeded();
  EXPECT_FALSE(retry.is_due(1e9));
  EXPECT_FALSE(retry.is_pending());
}

TEST(SaveRetry, PausesGrowUpToFiveMinutes) {
  SaveRetry retry;
  double now = 100;
  for (const double pause : {10., 20., 40., 80., 160., 300., 300.}) {
    retry.failed(now);
    EXPECT_FALSE(retry.is_due(now + pause - 0.5)) << pause;
    EXPECT_TRUE(retry.is_due(now + pause)) << pause;
    now += pause;
  }
  EXPECT_EQ(retry.num_failures(), 7);
}

TEST(SaveRetry, AfterASuccessItBeginsAnew) {
  SaveRetry retry;
  retry.failed(0);
  retry.failed(10);
  retry.succeeded();
  retry.failed(1000);
  EXPECT_TRUE(retry.is_due(1010));
  EXPECT_EQ(retry.num_failures(), 1);
}

}  // namespace
}  // namespace revode
