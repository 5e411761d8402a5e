// Where a run stands, as a checkpoint keeps it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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
  // Numbers that went wrong (docs/reliability.md). Left out of /progress where there were none.
  std::int64_t skipped = 0;           ///< steps without an update, since the beginning
  std::int64_t skipped_in_a_row = 0;  ///< the last ones
  /// The step that each rewind went back to, in their order: never falling.
  std::vector<std::int64_t> rewound_to;
  std::int64_t slow_until = 0;  ///< up to this step the rate is lowered

  std::int64_t num_rewinds() const { return static_cast<std::int64_t>(rewound_to.size()); }
  /// What the rate of the next step is multiplied by: 2^-rewinds up to slow_until, else 1.
  double rate_factor() const;
};

Attributes to_attributes(const RunProgress& progress, std::uint64_t seed);
/// Throws an input error naming the attribute that is missing, of the wrong kind, or that no run
/// can have counted.
RunProgress from_attributes(const Attributes& attributes, const std::string& file);

}  // namespace revode
