// Flat arrays of parameters, gradients and states: what is computed with them beside the sweeps.
#pragma once

#include <cstddef>
#include <cstdint>

namespace revode {

/// How far an array is from another; sums, += .
struct Comparison {
  std::int64_t num_values = 0;
  std::int64_t num_differing = 0;  ///< in any bit
  double squared_error = 0;
  double squared_norm = 0;  ///< of the other

  Comparison& operator+=(const Comparison& more) {
    num_values += more.num_values;
    num_differing += more.num_differing;
    squared_error += more.squared_error;
    squared_norm += more.squared_norm;
    return *this;
  }
};

/// Rows of one array, each of which belongs to one coupling. The row of the same place in the block
/// before is `rows_per_block` rows further in front.
template <typename Real>
struct RegularizedRows {
  std::int64_t num_rows = 0;
  std::size_t row_size = 0;
  std::int64_t rows_per_block = 1;
  const Real* values = nullptr;  ///< [num_rows, row_size]
  const Real* before =
      nullptr;                  ///< [rows_per_block, row_size], in front of `values`; null: nothing
  const Real* after = nullptr;  ///< likewise behind
  Real* gradient = nullptr;     ///< [num_rows, row_size]; +=
  double weight_decay = 0;
  double smoothness_over_h = 0;  ///< 0 where rows are not joined over blocks
  bool operator==(const RegularizedRows&) const = default;
};

/// Sums of squares over a row, in double, in an order that never changes.
struct RowSum {
  double decay = 0;       ///< |theta|^2
  double smoothness = 0;  ///< |theta - theta_before|^2; 0 where there is none before
  double gradient = 0;    ///< |g|^2, regularisation included
};

/// Stochastic gradient descent with momentum.
struct SgdRates {
  double rate = 0;
  double momentum = 0;
  double gradient_scale = 1;
};

}  // namespace revode
