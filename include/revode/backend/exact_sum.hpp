// Sums of gradients that do not depend on the order of their terms: each contribution, one entry of
// a micro-batch's gradient, is rounded to the nearest multiple of 2^-40 and added in 64-bit
// integers. Integer addition is associative, so any order and any grouping gives the same bits.
// Ranges and the error bound: docs/model.md, "Sums over micro-batches".
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace revode {

/// A sum in multiples of 2^-40.
using ExactSum = std::int64_t;

/// 2^40 and its inverse.
inline constexpr double exact_sum_scale = 1099511627776.0;
inline constexpr double exact_sum_unit = 1 / exact_sum_scale;
/// Contributions that one entry may have: so many of them cannot overflow 64 bits.
inline constexpr int most_contributions = 4096;
/// |contribution| < 2^11
inline constexpr double contribution_limit = 2048;
/// |sum| < 2^13: its integer is exact in a double.
inline constexpr double exact_sum_limit = 8192;

/// False for what is not finite, too.
template <typename Real>
bool is_contribution(Real value) {
  return std::abs(value) < static_cast<Real>(contribution_limit);
}

/// The nearest multiple of 2^-40, ties to even. value must be a contribution.
template <typename Real>
ExactSum to_exact(Real value) {
  return static_cast<ExactSum>(std::nearbyint(static_cast<double>(value) * exact_sum_scale));
}

inline bool is_in_range(ExactSum sum) {
  constexpr auto limit = static_cast<ExactSum>(exact_sum_limit * exact_sum_scale);
  return -limit < sum && sum < limit;
}

/// The nearest float or double to a sum in range.
template <typename Real>
Real from_exact(ExactSum sum) {
  return static_cast<Real>(static_cast<double>(sum) * exact_sum_unit);
}

/// sums[i] += values[i]. False where a value is no contribution: nothing is added for that one.
template <typename Real>
bool add_contributions(const Real* values, std::size_t size, ExactSum* sums) {
  bool all_in_range = true;
  for (std::size_t i = 0; i < size; ++i) {
    if (is_contribution(values[i])) {
      sums[i] += to_exact(values[i]);
    } else {
      all_in_range = false;
    }
  }
  return all_in_range;
}

}  // namespace revode
