// How far measurements of the same thing lie apart.
#pragma once

#include <vector>

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

}  // namespace revode
