// What the calls of a backend take, made from vectors.
#pragma once

#include <vector>

#include "revode/backend/backend.hpp"

namespace revode {

template <typename Real>
void load_weights(Segment<Real>& segment, const std::vector<Real>& kernel,
                  const std::vector<Real>& bias) {
  segment.bind({kernel.data(), bias.data()});
  segment.load_weights();
}

/// NormStatistics and the memory for them.
struct OwnStatistics {
  explicit OwnStatistics(int num_features) : mean(num_features), variance(num_features) {}
  OwnStatistics(std::vector<double> mean_in, std::vector<double> variance_in)
      : mean(std::move(mean_in)), variance(std::move(variance_in)) {}
  operator NormStatistics() { return {mean.data(), variance.data()}; }

  std::vector<double> mean, variance;
};

template <typename Real>
OwnStatistics closing_statistics(Backend<Real>& backend, const ClosingShape& shape,
                                 StateView<Real> state) {
  OwnStatistics statistics(shape.features.num_features(shape.channels));
  backend.closing_statistics(shape, state, statistics);
  return statistics;
}

}  // namespace revode
