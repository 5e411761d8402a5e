// Repeated training steps and forward sweeps with a clock beside them. Knows what to measure and
// what to count; how it is shown is bench_command's business.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "revode/backend/work_counts.hpp"
#include "revode/core/phase_timer.hpp"
#include "revode/train/data_feed.hpp"
#include "revode/train/network.hpp"
#include "revode/train/training_step.hpp"

namespace revode {

/// What one rank has seen.
struct Measurements {
  std::vector<double> step_seconds;     ///< of whole training steps, the longest of all ranks
  std::vector<double> forward_seconds;  ///< of forward sweeps alone, likewise
  std::vector<double> peak_flops;       ///< operations a second of this rank, between the steps
  std::vector<PhaseTimer> phases;       ///< this rank's, one a training step
  /// States, adjoints and digests that this rank sends in a training step.
  std::int64_t message_bytes = 0;
  /// What this rank gave its device in a training step, where it has one.
  std::optional<WorkCounts> work_of_step;

  /// One value a step of one phase.
  std::vector<double> seconds_of(Phase phase, int stage) const;
};

/// Trains for `num_steps` steps after a warm-up, each between a measurement of the peak and a
/// forward sweep of the same images, so that all see the same state of the machine. Collective.
Measurements measure(Network& network, TrainingStep& training, const DataFeed& feed, int num_steps);

/// Steps before the clock runs: scratch is taken, caches and clocks of the processor settle.
inline constexpr int num_warm_up_steps = 2;

}  // namespace revode
