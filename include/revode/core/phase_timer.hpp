// Where the time of a step goes. Kept by whoever wants to know (the bench command); everything else
// is handed a pointer that is usually null, and then nothing is measured.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

namespace revode {

/// Phases of a step on one rank: of its calling thread, or of its device. They do not overlap, so
/// that their sum is at most the step.
enum class Phase {
  data,            ///< images of a micro-batch: normalisation, augmentation
  opening,         ///< forward and back, with its batch norm
  stage_forward,   ///< couplings of one stage
  stage_back,      ///< couplings of one stage: states rebuilt, adjoints, gradients
  transition,      ///< forward and back, with the copy of its input that is kept
  closing,         ///< forward and back, with batch norm and loss
  regularization,  ///< weight decay and smoothness
  optimizer,       ///< update of the weights and of the backend's copies of them
  waiting,         ///< for messages and edge weights of other ranks; a device: for more to do
};
inline constexpr int num_phases = 9;

/// A place in the order of somebody's work, whose time is asked for later.
using Stamp = std::int64_t;

/// Tells when work was done: on the host, which does its work at once, or on a device, which does
/// it later than it is asked to.
class WorkClock {
 public:
  virtual ~WorkClock() = default;
  /// Behind all work given so far.
  virtual Stamp stamp();
  /// Waits until the work in front of both is done. Each stamp is good for one question.
  virtual double seconds_between(Stamp begin, Stamp end);

  using HostTime = std::chrono::steady_clock::time_point;
  /// Whether the work is done beside the host, and not at once: then its times are not the host's.
  virtual bool is_beside_host() const { return false; }
  /// When the work in front of each stamp was done, by the host's clock. Waits until all work is
  /// done. Each stamp is good for one question.
  virtual std::vector<HostTime> host_times(std::span<const Stamp> stamps);

  /// A copy between the host and a device.
  struct StampedCopy {
    bool to_host = false;
    Stamp begin = 0, end = 0;
  };
  /// From now on copies are stamped, on a device.
  virtual void stamp_copies() {}
  /// Those since the last call.
  virtual std::vector<StampedCopy> take_copies() { return {}; }
};

/// Sums of seconds by phase, and by stage where a phase has one (else stage 0).
class PhaseTimer {
 public:
  /// `clock`, of the work that is timed, must outlive this object.
  PhaseTimer(int num_stages, WorkClock& clock) : num_stages_(num_stages), clock_(&clock) {
    reset();
  }

  int num_stages() const { return num_stages_; }
  WorkClock& clock() const { return *clock_; }
  void add(Phase phase, int stage, Stamp begin, Stamp end) {
    spans_.push_back({phase, stage, begin, end});
  }
  /// Of what was settled.
  double seconds(Phase phase, int stage = 0) const {
    return seconds_[static_cast<int>(phase)][stage];
  }
  /// Waits until all that was timed is done, and adds it up.
  void settle();
  /// What was added up, settled or not, is forgotten.
  void reset() {
    settle();
    seconds_.fill(std::vector<double>(num_stages_, 0.0));
  }

 private:
  struct Span {
    Phase phase;
    int stage;
    Stamp begin, end;
  };

  int num_stages_;
  WorkClock* clock_;
  std::vector<Span> spans_;
  std::array<std::vector<double>, num_phases> seconds_;
};

/// Adds the time of its scope to a phase; does nothing with a null timer.
class PhaseScope {
 public:
  explicit PhaseScope(PhaseTimer* timer, Phase phase, int stage = 0)
      : timer_(timer), phase_(phase), stage_(stage) {
    if (timer_ != nullptr) begin_ = timer_->clock().stamp();
  }
  ~PhaseScope() {
    if (timer_ != nullptr) timer_->add(phase_, stage_, begin_, timer_->clock().stamp());
  }
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  PhaseTimer* timer_;
  Phase phase_;
  int stage_;
  Stamp begin_ = 0;
};

}  // namespace revode
