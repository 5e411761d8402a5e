// Exact sums of gradients, to and from plain numbers.
#pragma once

#include <vector>

#include "revode/backend/exact_sum.hpp"

namespace revode {

template <typename Real>
std::vector<ExactSum> exact_sums(const std::vector<Real>& values) {
  std::vector<ExactSum> sums;
  for (const Real value : values) sums.push_back(to_exact(value));
  return sums;
}

template <typename Real>
std::vector<Real> real_values(const std::vector<ExactSum>& sums) {
  std::vector<Real> values;
  for (const ExactSum sum : sums) values.push_back(from_exact<Real>(sum));
  return values;
}

}  // namespace revode
