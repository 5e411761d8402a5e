#include "revode/core/trace.hpp"

#include <chrono>
#include <span>
#include <utility>
#include <vector>

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

/// A device whose stamps are numbers, and seconds; each step is one copy.
class Device final : public WorkClock {
 public:
  Stamp stamp() override { return ++last_; }
  bool is_beside_host() const override { return true; }
  std::vector<HostTime> host_times(std::span<const Stamp> stamps) override {
    std::vector<HostTime> times;
    for (const Stamp stamp : stamps) times.emplace_back(std::chrono::seconds(stamp));
    return times;
  }
  void stamp_copies() override { stamps_copies_ = true; }
  std::vector<StampedCopy> take_copies() override { return std::exchange(copies_, {}); }
  void copy(bool to_host) {
    if (!stamps_copies_) return;
    const Stamp begin = stamp();
    copies_.push_back({to_host, begin, stamp()});
  }

 private:
  Stamp last_ = 0;
  bool stamps_copies_ = false;
  std::vector<StampedCopy> copies_;
};

std::vector<TraceEvent> events_on_device(const TraceRecorder::Step& step) {
  std::vector<TraceEvent> events;
  for (const TraceEvent& event : step.events)
    if (event.on_device) events.push_back(event);
  return events;
}

TEST(TraceOfADevice, HoldsItsWorkAndItsCopiesInTheStepsThatAskedForThem) {
  Device device;
  TraceRecorder recorder(2, device);
  { const TraceScope before_the_first(&recorder, TraceAction::forward); }
  const auto seconds = [](int count) { return Clock::time_point(std::chrono::seconds(count)); };

  recorder.begin_step(1);
  { const TraceScope scope(&recorder, TraceAction::forward, 3, 2); }  // 1 to 2
  device.copy(true);                                                  // 3 to 4
  recorder.note_copies();
  recorder.read_device();
  { const TraceScope scope(&recorder, TraceAction::optimizer); }  // 5 to 6, read in the next step
  device.copy(true);                                              // of an evaluation
  recorder.begin_step(2);
  { const TraceScope scope(&recorder, TraceAction::wait); }  // not the device's
  device.copy(false);                                        // 9 to 10
  recorder.note_copies();
  EXPECT_EQ(events_on_device(recorder.steps()[0]).size(), 2u);
  recorder.read_device();

  const std::vector<TraceEvent> first = events_on_device(recorder.steps()[0]);
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[0].action, TraceAction::forward);
  EXPECT_EQ(first[0].micro_batch, 3);
  EXPECT_EQ(first[0].slice, 2);
  EXPECT_EQ(first[0].begin, seconds(1));
  EXPECT_EQ(first[0].end, seconds(2));
  EXPECT_EQ(first[1].action, TraceAction::copy_out);
  EXPECT_EQ(first[1].begin, seconds(3));
  EXPECT_EQ(first[2].action, TraceAction::optimizer);
  EXPECT_EQ(first[2].end, seconds(6));
  const std::vector<TraceEvent> second = events_on_device(recorder.steps()[1]);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].action, TraceAction::copy_in);
  EXPECT_EQ(second[0].end, seconds(10));
}

TEST(TraceOfADevice, DropsWhatBelongsToStepsThatAreDropped) {
  Device device;
  TraceRecorder recorder(1, device);
  recorder.begin_step(1);
  { const TraceScope scope(&recorder, TraceAction::optimizer); }
  recorder.begin_step(2);

  recorder.read_device();

  EXPECT_TRUE(recorder.steps().front().events.empty());
}

TEST(TraceOfADevice, IsNotMadeOfAHost) {
  WorkClock host;
  TraceRecorder recorder(1, host);
  recorder.begin_step(1);
  { const TraceScope scope(&recorder, TraceAction::forward); }

  recorder.read_device();

  EXPECT_EQ(recorder.device(), nullptr);
  EXPECT_EQ(recorder.steps().front().events.size(), 1u);
}

TEST(TraceAction, EachHasItsName) {
  EXPECT_EQ(to_string(TraceAction::forward), "forward");
  EXPECT_EQ(to_string(TraceAction::wait), "wait");
  EXPECT_EQ(to_string(TraceAction::copy_out), "copy_out");  // the last one
}

}  // namespace
}  // namespace revode
