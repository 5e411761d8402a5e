// Stochastic gradient descent with momentum, and the policy of its rate.
#pragma once

#include <cstdint>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/model/parameters.hpp"

namespace revode {

/// Piecewise constant: base * decay^(number of decay epochs reached), epochs counted from 0; over
/// the warm-up epochs it rises linearly with the step from base/steps to base (Goyal et al., arXiv
/// 1706.02677, section 2.2).
struct RatePolicy {
  double base = 0.1;
  double decay = 0.1;
  std::vector<int> decay_epochs;
  int warmup_epochs = 0;

  double at(std::int64_t epoch, std::int64_t step_in_epoch, std::int64_t steps_per_epoch) const;
};

/// v <- momentum v + scale g;  theta <- theta - rate v, for the trainable entries of the map. All
/// flat as the map, in the backend's memory.
void sgd_step(Backend<float>& backend, const ParameterMap& map, const SgdRates& rates,
              const float* gradient, float* velocity, float* values);

}  // namespace revode
