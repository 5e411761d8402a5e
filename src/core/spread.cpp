#include "revode/core/spread.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace revode {

Spread spread_of(std::vector<double> values) {
  std::ranges::sort(values);
  const auto quantile = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], place - static_cast<double>(below));
  };
  return {.median = quantile(0.5),
          .lowest = values.front(),
          .lower_quartile = quantile(0.25),
          .upper_quartile = quantile(0.75),
          .highest = values.back(),
          .mean = std::accumulate(values.begin(), values.end(), 0.0) /
                  static_cast<double>(values.size())};
}

}  // namespace revode
