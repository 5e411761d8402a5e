// Where the time of a step goes. Kept by whoever wants to know (the bench command); everything else
// is handed a pointer that is usually null, and then nothing is measured.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <vector>

namespace revode {

/// Phases of a step on one rank's calling thread. They do not overlap, so that their sum is at most
/// the step.
enum class Phase {
  data,            ///< images of a micro-batch: normalisation, augmentation
  opening,         ///< forward and back, with its batch norm
  stage_forward,   ///< couplings of one stage
  stage_back,      ///< couplings of one stage: states rebuilt, adjoints, gradients
  transition,      ///< forward and back, with the copy of its input that is kept
  closing,         ///< forward and back, with batch norm and loss
  regularization,  ///< weight decay and smoothness
  optimizer,       ///< update of the weights and of the backend's copies of them
  waiting,         ///< for messages and edge weights of other ranks
};
inline constexpr int num_phases = 9;

/// Sums of seconds by phase, and by stage where a phase has one (else stage 0).
class PhaseTimer {
 public:
  explicit PhaseTimer(int num_stages) : num_stages_(num_stages) { reset(); }

  int num_stages() const { return num_stages_; }
  void add(Phase phase, int stage, double seconds) {
    seconds_[static_cast<int>(phase)][stage] += seconds;
  }
  double seconds(Phase phase, int stage = 0) const {
    return seconds_[static_cast<int>(phase)][stage];
  }
  void reset() { seconds_.fill(std::vector<double>(num_stages_, 0.0)); }

 private:
  int num_stages_;
  std::array<std::vector<double>, num_phases> seconds_;
};

/// Adds the time of its scope to a phase; does nothing with a null timer.
class PhaseScope {
 public:
  explicit PhaseScope(PhaseTimer* timer, Phase phase, int stage = 0)
      : timer_(timer), phase_(phase), stage_(stage) {
    if (timer_ != nullptr) start_ = Clock::now();
  }
  ~PhaseScope() {
    if (timer_ == nullptr) return;
    timer_->add(phase_, stage_, std::chrono::duration<double>(Clock::now() - start_).count());
  }
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  using Clock = std::chrono::steady_clock;

  PhaseTimer* timer_;
  Phase phase_;
  int stage_;
  Clock::time_point start_{};
};

}  // namespace revode
