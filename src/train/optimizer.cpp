#include "revode/train/optimizer.hpp"

#include <cmath>

namespace revode {

double RatePolicy::at(std::int64_t epoch, std::int64_t step_in_epoch,
                      std::int64_t steps_per_epoch) const {
  double rate = base;
  for (const int decay_epoch : decay_epochs)
    if (epoch >= decay_epoch) rate *= decay;
  if (epoch < warmup_epochs) {
    const auto done = static_cast<double>(epoch * steps_per_epoch + step_in_epoch + 1);
    rate *= done / static_cast<double>(warmup_epochs * steps_per_epoch);
  }
  return rate;
}

void sgd_step(const ParameterMap& map, double rate, double momentum, double gradient_scale,
              const float* gradient, float* velocity, float* values) {
  const auto factor = static_cast<float>(momentum), step = static_cast<float>(rate);
  const auto scale = static_cast<float>(gradient_scale);
  for (const ParameterEntry* entry : map.entries()) {
    if (!entry->trainable) continue;
    for (std::size_t i = entry->offset; i < entry->offset + entry->size(); ++i) {
      velocity[i] = factor * velocity[i] + scale * gradient[i];
      values[i] -= step * velocity[i];
    }
  }
}

}  // namespace revode
