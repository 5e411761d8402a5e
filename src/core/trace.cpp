#include "revode/core/trace.hpp"

#include <algorithm>
#include <utility>

namespace revode {

void TraceRecorder::begin_step(std::int64_t number) {
  take_copies(no_step);  // of an evaluation, of a save
  Step step{number, {}};
  if (steps_.size() == static_cast<std::size_t>(num_steps_)) {
    step.events = std::move(steps_.front().events);  // its memory
    step.events.clear();
    steps_.pop_front();
  }
  steps_.push_back(std::move(step));
}

void TraceRecorder::note_copies() {
  if (!steps_.empty()) take_copies(steps_.back().number);
}

void TraceRecorder::take_copies(std::int64_t step) {
  if (device_ == nullptr) return;
  for (const auto& [to_host, begin, end] : device_->take_copies()) {
    const TraceAction action = to_host ? TraceAction::copy_out : TraceAction::copy_in;
    pending_.push_back({step, {.action = action, .begin = {}, .end = {}}, begin, end});
  }
}

void TraceRecorder::read_device() {
  if (device() == nullptr) return;
  std::vector<Stamp> stamps;
  for (const Pending& pending : pending_) {
    stamps.push_back(pending.begin);
    stamps.push_back(pending.end);
  }
  const std::vector<WorkClock::HostTime> times = device_->host_times(stamps);
  auto time = times.begin();
  for (Pending& pending : pending_) {
    pending.event.begin = *time++;
    pending.event.end = *time++;
    pending.event.on_device = true;
    const auto step = std::ranges::find(steps_, pending.step, &Step::number);
    if (step != steps_.end()) step->events.push_back(pending.event);
  }
  pending_.clear();
}

}  // namespace revode
