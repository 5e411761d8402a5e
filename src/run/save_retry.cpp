#include "revode/run/save_retry.hpp"

#include <algorithm>

namespace revode {

void SaveRetry::failed(double seconds) {
  constexpr double first_pause = 10, longest_pause = 300;
  pause_seconds_ = is_pending() ? std::min(2 * pause_seconds_, longest_pause) : first_pause;
  next_seconds_ = seconds + pause_seconds_;
  ++num_failures_;
}

}  // namespace revode
