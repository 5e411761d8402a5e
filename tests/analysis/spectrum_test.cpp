// Matrices whose eigenvalues and norms are known.
#include "revode/analysis/spectrum.hpp"

#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace revode {
namespace {

/// Rows of a matrix, written out.
class Written : public LinearOperator {
 public:
  explicit Written(std::vector<std::vector<double>> rows) : rows_(std::move(rows)) {}
  std::size_t size() const override { return rows_.size(); }
  void apply(std::span<const double> v, std::span<double> out) override {
    for (std::size_t i = 0; i < size(); ++i) {
      out[i] = 0;
      for (std::size_t j = 0; j < size(); ++j) out[i] += rows_[i][j] * v[j];
    }
  }
  void apply_transposed(std::span<const double> v, std::span<double> out) override {
    for (std::size_t i = 0; i < size(); ++i) {
      out[i] = 0;
      for (std::size_t j = 0; j < size(); ++j) out[i] += rows_[j][i] * v[j];
    }
  }

 private:
  std::vector<std::vector<double>> rows_;
};

/// Blocks [0, w; -w, 0] for the frequencies w, turned by a reflection, so that nothing is sparse.
Written oscillators(const std::vector<double>& frequencies) {
  const std::size_t size = 2 * frequencies.size();
  std::vector<std::vector<double>> rows(size, std::vector<double>(size));
  for (std::size_t k = 0; k < frequencies.size(); ++k) {
    rows[2 * k][2 * k + 1] = frequencies[k];
    rows[2 * k + 1][2 * k] = -frequencies[k];
  }
  // H A H with the reflection H = I - 2 u u^T, u = (1, .., 1) / sqrt(size)
  const double share = 2.0 / static_cast<double>(size);
  for (auto& row : rows) {
    double sum = 0;
    for (const double value : row) sum += value;
    for (double& value : row) value -= share * sum;
  }
  for (std::size_t j = 0; j < size; ++j) {
    double sum = 0;
    for (const auto& row : rows) sum += row[j];
    for (auto& row : rows) row[j] -= share * sum;
  }
  return Written(std::move(rows));
}

std::vector<double> frequencies(int count) {
  std::vector<double> values;
  for (int k = 0; k < count; ++k) values.push_back(10.0 / (1 + k));
  return values;
}

// Too large to be made whole: the iteration.
TEST(LargestEigenvalues, AreThoseOfOscillators) {
  Written matrix = oscillators(frequencies(60));

  const auto values = largest_eigenvalues(matrix, 6);

  ASSERT_EQ(values.size(), 6u);
  for (int k = 0; k < 3; ++k)
    for (const int i : {2 * k, 2 * k + 1}) {
      EXPECT_NEAR(std::abs(values[i].imag()), 10.0 / (1 + k), 1e-4) << i;
      EXPECT_NEAR(values[i].real(), 0, 1e-4) << i;
    }
}

TEST(LargestEigenvalues, OfSmallMatricesAreTheFirstOfAll) {
  Written matrix = oscillators(frequencies(5));

  const auto all = all_eigenvalues(matrix), largest = largest_eigenvalues(matrix, 4);

  ASSERT_EQ(all.size(), 10u);
  for (int k = 0; k < 5; ++k) EXPECT_NEAR(std::abs(all[2 * k].imag()), 10.0 / (1 + k), 1e-12);
  ASSERT_EQ(largest.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(largest[i], all[i]);
}

TEST(LargestEigenvalues, OfZeroAreZero) {
  Written matrix(std::vector<std::vector<double>>(100, std::vector<double>(100)));

  for (const auto& value : largest_eigenvalues(matrix, 6)) EXPECT_EQ(std::abs(value), 0);
  EXPECT_EQ(largest_singular_value(matrix), 0);
  EXPECT_EQ(numerical_abscissa(matrix), 0);
}

// [0, s; 0, 0] again and again: eigenvalues 0, norm s, and growth at a rate of s/2 at first.
TEST(Norms, TellWhatEigenvaluesHide) {
  constexpr int size = 80;
  std::vector<std::vector<double>> rows(size, std::vector<double>(size));
  for (int i = 0; i + 1 < size; i += 2) rows[i][i + 1] = 3.0 - 0.01 * i;
  Written matrix(std::move(rows));

  EXPECT_NEAR(largest_singular_value(matrix).value(), 3, 1e-2);
  EXPECT_NEAR(numerical_abscissa(matrix).value(), 1.5, 1e-2);
}

TEST(Norms, OfNormalMatricesAreTheirEigenvalues) {
  Written matrix = oscillators(frequencies(60));

  EXPECT_NEAR(largest_singular_value(matrix).value(), 10, 1e-2);
  EXPECT_NEAR(numerical_abscissa(matrix).value(), 0, 1e-10);
}

}  // namespace
}  // namespace revode
