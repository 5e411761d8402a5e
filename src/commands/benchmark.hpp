// Repeated training steps and forward sweeps with a clock beside them. Knows what to measure and
// what to count; how it is shown is bench_command's business.
#pragma once

#include <cstdint>
#include <vector>

#include "revode/core/phase_timer.hpp"
#include "revode/train/data_feed.hpp"
#include "revode/train/network.hpp"
#include "revode/train/training_step.hpp"

namespace revode {

/// Repeated measurements of the same thing.
struct Spread {
  double median = 0;
  double lowest = 0;
  double lower_quartile = 0;
  double upper_quartile = 0;
  double highest = 0;
  double mean = 0;
};
/// values must not be empty. Quartiles are interpolated between neighbours.
Spread spread_of(std::vector<double> values);

/// Convolutions that a coupling counts for, whatever the kernels do instead: of c channels with c,
/// 3x3, each 2 * 9 * c * c * height * width operations an image. A force that is F = K^T sigma(K x)
/// takes 2 forward and 6 back (F again, two adjoints, two kernel gradients), or 4 where the
/// activations were stored; one with a single kernel takes half of each.
struct ConvolutionCount {
  int forward = 0;
  int back = 0;
};
ConvolutionCount convolutions_of_coupling(Force force, Activations activations);
/// Operations of one convolution of `shape` for one image.
double convolution_flops(const SegmentShape& shape);

/// What one rank has seen.
struct Measurements {
  std::vector<double> step_seconds;     ///< of whole training steps, the longest of all ranks
  std::vector<double> forward_seconds;  ///< of forward sweeps alone, likewise
  std::vector<double> peak_flops;       ///< operations a second of this rank, between the steps
  std::vector<PhaseTimer> phases;       ///< this rank's, one a training step
};

/// Trains for `num_steps` steps after a warm-up, each between a measurement of the peak and a
/// forward sweep of the same images, so that all see the same state of the machine. Collective.
Measurements measure(Network& network, TrainingStep& training, const DataFeed& feed, int num_steps);

/// Steps before the clock runs: scratch is taken, caches and clocks of the processor settle.
inline constexpr int num_warm_up_steps = 2;

}  // namespace revode
