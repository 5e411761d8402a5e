// Numbers for tests: drawn from fixed streams, compared bit for bit, and derivatives by central
// differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/core/random.hpp"

namespace revode {

/// Uniform in [low, high); `stream` keeps arrays apart.
template <typename Real>
std::vector<Real> uniform_values(std::size_t size, double low, double high, std::uint64_t stream) {
  RandomStream random(1, Purpose::check, stream);
  std::vector<Real> values(size);
  for (Real& value : values) value = static_cast<Real>(random.uniform(low, high));
  return values;
}

/// Uniform multiples of 2^-16 in [-bound, bound): states of grid 16.
inline std::vector<float> grid_values(std::size_t size, double bound, std::uint64_t stream) {
  std::vector<float> values = uniform_values<float>(size, -bound, bound, stream);
  for (float& value : values) value = std::nearbyint(value * 0x1p16f) * 0x1p-16f + 0.0f;
  return values;
}

/// Entries that differ in any bit (where == would take -0 for +0); sizes must agree.
template <typename A, typename B>
std::size_t num_differing(const A& a, const B& b) {
  if (a.size() != b.size()) return std::max(a.size(), b.size());
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += std::memcmp(&a[i], &b[i], sizeof a[i]) != 0;
  return count;
}

template <typename A, typename B>
double dot(const A& a, const B& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

/// `gradient` must be the derivative of loss() with respect to every entry of `values` (which loss
/// reads): central differences, the largest deviation taken relative to the largest derivative.
template <typename Loss>
void expect_gradient(const std::string& what, Loss&& loss, std::span<double> values,
                     std::span<const double> gradient, double step, double tolerance) {
  ASSERT_EQ(values.size(), gradient.size()) << what;
  double largest = 0, deviation = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double value = values[i];
    values[i] = value + step;
    const double above = loss();
    values[i] = value - step;
    const double below = loss();
    values[i] = value;
    const double difference = (above - below) / (2 * step);
    largest = std::max(largest, std::abs(difference));
    deviation = std::max(deviation, std::abs(difference - gradient[i]));
  }
  EXPECT_GT(largest, 0) << what << " does not influence the loss: nothing was tested";
  EXPECT_LE(deviation, tolerance * largest) << what << ", largest derivative " << largest;
}

}  // namespace revode
