#include "revode/core/phase_timer.hpp"

#include <chrono>

#include <gtest/gtest.h>

namespace revode {
namespace {

using Clock = std::chrono::steady_clock;

/// Stamps are numbers; seconds between them a quarter of their difference.
class Quarters final : public WorkClock {
 public:
  Stamp stamp() override { return ++last_; }
  double seconds_between(Stamp begin, Stamp end) override {
    ++num_questions;
    return 0.25 * static_cast<double>(end - begin);
  }

  int num_questions = 0;

 private:
  Stamp last_ = 0;
};

TEST(PhaseTimer, AddsByPhaseAndStageWhatWasSettled) {
  Quarters clock;
  PhaseTimer timer(3, clock);

  timer.add(Phase::stage_back, 2, 0, 2);
  timer.add(Phase::stage_back, 2, 4, 5);
  timer.add(Phase::opening, 0, 0, 4);
  EXPECT_EQ(clock.num_questions, 0);
  timer.settle();

  EXPECT_EQ(timer.seconds(Phase::stage_back, 2), 0.75);
  EXPECT_EQ(timer.seconds(Phase::stage_back, 1), 0);
  EXPECT_EQ(timer.seconds(Phase::stage_forward, 2), 0);
  EXPECT_EQ(timer.seconds(Phase::opening), 1.0);
  timer.settle();
  EXPECT_EQ(clock.num_questions, 3);  // each once
}

TEST(PhaseTimer, ForgetsWhatItHadOnReset) {
  Quarters clock;
  PhaseTimer timer(2, clock);
  timer.add(Phase::waiting, 0, 0, 4);

  timer.reset();
  timer.settle();

  EXPECT_EQ(timer.seconds(Phase::waiting), 0);
}

TEST(PhaseScope, CountsItsOwnTimeAndNoMore) {
  WorkClock host;
  PhaseTimer timer(2, host);

  const Clock::time_point start = Clock::now();
  {
    const PhaseScope scope(&timer, Phase::data, 1);
    const Clock::time_point inside = Clock::now();
    while (Clock::now() - inside < std::chrono::milliseconds(2)) {
    }
  }
  const std::chrono::duration<double> around = Clock::now() - start;
  timer.settle();

  EXPECT_GE(timer.seconds(Phase::data, 1), 0.002);
  EXPECT_LE(timer.seconds(Phase::data, 1), around.count());
}

}  // namespace
}  // namespace revode
