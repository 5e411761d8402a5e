// What the closing makes of a micro-batch.
#pragma once

#include <cstdint>

namespace revode {

struct MicroBatchResult {
  double loss_sum = 0;  ///< of the cross-entropy over its samples
  std::int64_t num_correct = 0;
  int num_samples = 0;
};

}  // namespace revode
