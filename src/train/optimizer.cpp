#include "revode/train/optimizer.hpp"

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

void sgd_step(Backend<float>& backend, const ParameterMap& map, const SgdRates& rates,
              const float* gradient, float* velocity, float* values) {
  for (const ParameterEntry* entry : map.entries())
    if (entry->trainable)
      backend.sgd_step(entry->size(), rates, gradient + entry->offset, velocity + entry->offset,
                       values + entry->offset);
}

}  // namespace revode
