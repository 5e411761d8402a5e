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

void PhaseTimer::settle() {
  for (const Span& span : spans_)
    seconds_[static_cast<int>(span.phase)][span.stage] +=
        clock_->seconds_between(span.begin, span.end);
  spans_.clear();
}

}  // namespace revode
