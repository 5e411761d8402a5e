// Where a run stands, as a checkpoint keeps it.
#pragma once

#include <cstdint>
#include <string>

#include "revode/backend/segment.hpp"
#include "revode/checkpoint/array_slice.hpp"

namespace revode {

/// Where a run stands: what /progress keeps beside the arrays.
struct RunProgress {
  std::int64_t epoch = 0;  ///< the one that the next step belongs to
  std::int64_t step = 0;   ///< steps done
  std::int64_t samples_seen = 0;
  double learning_rate = 0;  ///< of the last step
  double best_accuracy = 0;  ///< on the test split, at the end of an epoch
  // Running sums of the epoch.
  double epoch_loss_sum = 0;
  std::int64_t epoch_correct = 0;
  std::int64_t epoch_samples = 0;
  double epoch_regularization_sum = 0;
  // Since the beginning: see RangeCounts.
  RangeCounts range;
};

Attributes to_attributes(const RunProgress& progress, std::uint64_t seed);
/// Throws an input error naming the attribute that is missing, of the wrong kind, or that no run
/// can have counted.
RunProgress from_attributes(const Attributes& attributes, const std::string& file);

}  // namespace revode
