#include "revode/core/trace.hpp"

#include <gtest/gtest.h>

namespace revode {
namespace {

using Clock = TraceEvent::Clock;

TEST(TraceRecorder, KeepsTheLastStepsAlone) {
  TraceRecorder recorder(2);

  for (int step = 1; step <= 5; ++step) {
    recorder.begin_step(step);
    for (int event = 0; event < step; ++event) TraceScope(&recorder, TraceAction::forward, event);
  }

  ASSERT_EQ(recorder.steps().size(), 2u);
  for (const int step : {4, 5}) {
    const TraceRecorder::Step& kept = recorder.steps()[step - 4];
    EXPECT_EQ(kept.number, step);
    ASSERT_EQ(kept.events.size(), static_cast<std::size_t>(step));
    EXPECT_EQ(kept.events.back().micro_batch, step - 1);
  }
}

TEST(TraceRecorder, KeepsNothingBeforeTheFirstStep) {
  TraceRecorder recorder(3);

  { const TraceScope scope(&recorder, TraceAction::optimizer); }

  EXPECT_TRUE(recorder.steps().empty());
}

TEST(TraceScope, RecordsItsOwnTimeAndWhatItIsOf) {
  TraceRecorder recorder(1);
  recorder.begin_step(7);

  const Clock::time_point before = Clock::now();
  {
    const TraceScope scope(&recorder, TraceAction::backward, 3, 2);
    EXPECT_TRUE(recorder.steps().back().events.empty());
  }
  const Clock::time_point after = Clock::now();

  ASSERT_EQ(recorder.steps().back().events.size(), 1u);
  const TraceEvent& event = recorder.steps().back().events.front();
  EXPECT_EQ(event.action, TraceAction::backward);
  EXPECT_EQ(event.micro_batch, 3);
  EXPECT_EQ(event.slice, 2);
  EXPECT_EQ(event.peer, TraceEvent::none);
  EXPECT_LE(before, event.begin);
  EXPECT_LE(event.begin, event.end);
  EXPECT_LE(event.end, after);
}

TEST(TraceScope, DoesNothingWithoutARecorder) {
  EXPECT_NO_THROW(TraceScope(nullptr, TraceAction::wait));
}

TEST(TraceAction, EachHasItsName) {
  EXPECT_EQ(to_string(TraceAction::forward), "forward");
  EXPECT_EQ(to_string(TraceAction::wait), "wait");
  EXPECT_EQ(to_string(TraceAction::write), "write");  // the last one
}

}  // namespace
}  // namespace revode
