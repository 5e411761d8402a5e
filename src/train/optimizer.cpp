#include "revode/train/optimizer.hpp"

#include <cstddef>

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

// A call for each run of arrays that lie behind each other: on a device a call takes the host
// longer than its work.
void sgd_step(Backend<float>& backend, const ParameterMap& map, const SgdRates& rates,
              const float* gradient, float* velocity, float* values) {
  std::size_t begin = 0, end = 0;
  const auto step = [&] {
    if (begin < end)
      backend.sgd_step(end - begin, rates, gradient + begin, velocity + begin, values + begin);
  };
  for (const ParameterEntry* entry : map.entries()) {
    if (!entry->trainable || entry->size() == 0) continue;
    if (entry->offset != end) {
      step();
      begin = entry->offset;
    }
    end = entry->offset + entry->size();
  }
  step();
}

}  // namespace revode
