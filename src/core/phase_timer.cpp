#include "revode/core/phase_timer.hpp"

#include <chrono>

namespace revode {

Stamp WorkClock::stamp() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

double WorkClock::seconds_between(Stamp begin, Stamp end) {
  return 1e-9 * static_cast<double>(end - begin);
}

std::vector<WorkClock::HostTime> WorkClock::host_times(std::span<const Stamp> stamps) {
  std::vector<HostTime> times;
  for (const Stamp stamp : stamps) times.emplace_back(std::chrono::nanoseconds(stamp));
  return times;
}

void PhaseTimer::settle() {
  for (const Span& span : spans_)
    seconds_[static_cast<int>(span.phase)][span.stage] +=
        clock_->seconds_between(span.begin, span.end);
  spans_.clear();
}

}  // namespace revode
