#include "revode/core/phase_timer.hpp"

#include <chrono>

#include <gtest/gtest.h>

namespace revode {
namespace {

using Clock = std::chrono::steady_clock;

TEST(PhaseTimer, AddsByPhaseAndStage) {
  PhaseTimer timer(3);

  timer.add(Phase::stage_back, 2, 0.5);
  timer.add(Phase::stage_back, 2, 0.25);
  timer.add(Phase::opening, 0, 1.0);

  EXPECT_EQ(timer.seconds(Phase::stage_back, 2), 0.75);
  EXPECT_EQ(timer.seconds(Phase::stage_back, 1), 0);
  EXPECT_EQ(timer.seconds(Phase::stage_forward, 2), 0);
  EXPECT_EQ(timer.seconds(Phase::opening), 1.0);
}

TEST(PhaseTimer, ForgetsWhatItHadOnReset) {
  PhaseTimer timer(2);
  timer.add(Phase::waiting, 0, 1.0);

  timer.reset();

  EXPECT_EQ(timer.seconds(Phase::waiting), 0);
}

TEST(PhaseScope, CountsItsOwnTimeAndNoMore) {
  PhaseTimer timer(2);

  const Clock::time_point start = Clock::now();
  {
    const PhaseScope scope(&timer, Phase::data, 1);
    while (Clock::now() - start < std::chrono::milliseconds(2)) {
    }
  }
  const std::chrono::duration<double> around = Clock::now() - start;

  EXPECT_GT(timer.seconds(Phase::data, 1), 0);
  EXPECT_LE(timer.seconds(Phase::data, 1), around.count());
}

}  // namespace
}  // namespace revode
