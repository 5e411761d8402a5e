#include "backend/host/host_backend.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "revode/core/digest.hpp"

namespace revode {
namespace host {

template <typename Base>
void HostQueue<Base>::zero(void* to, std::size_t bytes) {
  if (bytes > 0) std::memset(to, 0, bytes);
}

template <typename Base>
void HostQueue<Base>::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

template <typename Base>
void HostQueue<Base>::digest(const std::vector<std::span<const std::byte>>& arrays,
                             std::uint64_t* digests) {
  for (const std::span<const std::byte> array : arrays) *digests++ = digest_of(array);
}

// p_k = exp(l_k - max) / sum;  loss = log(sum) + max - l_label
template <typename Real>
void HostBackend<Real>::softmax_cross_entropy(const LossShape& shape, const Real* logits,
                                              const std::uint8_t* labels, double* probabilities,
                                              LossSums* sums) {
  *sums = {};
  for (int n = 0; n < shape.batch; ++n) {
    const Real* l = logits + n * shape.num_classes;
    double* p = probabilities + n * shape.num_classes;
    const Real* largest = std::max_element(l, l + shape.num_classes);
    double sum = 0;
    for (int k = 0; k < shape.num_classes; ++k)
      sum += p[k] = std::exp(double{l[k]} - double{*largest});
    for (int k = 0; k < shape.num_classes; ++k) p[k] /= sum;
    sums->loss += std::log(sum) + double{*largest} - double{l[labels[n]]};
    sums->num_correct += largest - l == labels[n];
  }
}

template <typename Real>
void HostBackend<Real>::softmax_cross_entropy_gradient(const LossShape& shape,
                                                       const double* probabilities,
                                                       const std::uint8_t* labels, int mini_batch,
                                                       Real* grad_logits) {
  for (int n = 0; n < shape.batch; ++n) {
    for (int k = 0; k < shape.num_classes; ++k) {
      const int i = n * shape.num_classes + k;
      const double at_label = k == labels[n] ? 1 : 0;
      grad_logits[i] = static_cast<Real>((probabilities[i] - at_label) / mini_batch);
    }
  }
}

template <typename Real>
void HostBackend<Real>::read_running_averages(int num_features, const Real* mean,
                                              const Real* variance, NormStatistics statistics) {
  std::copy_n(mean, num_features, statistics.mean);
  std::copy_n(variance, num_features, statistics.variance);
}

template <typename Real>
void HostBackend<Real>::update_running_averages(int num_features, const std::vector<double>& counts,
                                                NormStatistics statistics, Real* mean,
                                                Real* variance) {
  constexpr double momentum = 0.1;
  for (int f = 0; f < num_features; ++f) {
    double average_mean = mean[f], average_variance = variance[f];
    for (std::size_t m = 0; m < counts.size(); ++m) {
      const double unbiased = counts[m] > 1 ? counts[m] / (counts[m] - 1) : 1;
      const std::size_t of_batch = m * num_features + f;
      average_mean = (1 - momentum) * average_mean + momentum * statistics.mean[of_batch];
      average_variance =
          (1 - momentum) * average_variance + momentum * unbiased * statistics.variance[of_batch];
    }
    mean[f] = static_cast<Real>(average_mean);
    variance[f] = static_cast<Real>(average_variance);
  }
}

template <typename Real>
void HostBackend<Real>::compare(std::size_t size, const Real* values, const Real* expected,
                                Comparison* result) {
  for (std::size_t i = 0; i < size; ++i) {
    const double error = double{values[i]} - double{expected[i]};
    result->num_differing += std::memcmp(&values[i], &expected[i], sizeof(Real)) != 0;
    result->squared_error += error * error;
    result->squared_norm += double{expected[i]} * double{expected[i]};
  }
  result->num_values += static_cast<std::int64_t>(size);
}

template <typename Real>
void HostBackend<Real>::find_non_finite(std::size_t size, const Real* values, int code,
                                        int* found) {
  if (*found != 0) return;
  if (!std::all_of(values, values + size, [](Real value) { return std::isfinite(value); }))
    *found = code;
}

// Block by block, front to back: value i lies in front of sum i, so none is overwritten unread.
template <typename Real>
void HostBackend<Real>::finish_sums(std::size_t size, const ExactSum* sums, Real* values,
                                    std::int64_t* last_out_of_range) {
  constexpr std::size_t block_size = 512;
  std::array<ExactSum, block_size> block_sums;
  std::array<Real, block_size> block_values;
  for (std::size_t first = 0; first < size; first += block_size) {
    const std::size_t count = std::min(block_size, size - first);
    std::memcpy(block_sums.data(), reinterpret_cast<const std::byte*>(sums + first),
                count * sizeof(ExactSum));
    bool in_range = true;
    for (std::size_t i = 0; i < count; ++i) {
      block_values[i] = from_exact<Real>(block_sums[i]);
      in_range &= is_in_range(block_sums[i]);
    }
    std::memcpy(reinterpret_cast<std::byte*>(values + first), block_values.data(),
                count * sizeof(Real));
    if (in_range) continue;
    for (std::size_t i = 0; i < count; ++i)
      if (!is_in_range(block_sums[i]))
        *last_out_of_range = std::max(*last_out_of_range, static_cast<std::int64_t>(first + i) + 1);
  }
}

namespace {

/// Sums of squares run in this many partial sums, of every num_partial-th term each, added up in
/// order at the end: additions that do not wait for each other, in an order that never changes.
constexpr std::size_t num_partial = 8;

struct SumOfSquares {
  void add(std::size_t place, double term) { partial[place] += term * term; }
  double total() const { return std::accumulate(partial.begin(), partial.end(), 0.0); }

  std::array<double, num_partial> partial{};
};

/// gradient += decay * theta + factor * ((theta - older) + (theta - newer)), where there is such,
/// in one pass; the sums are of what is there.
template <bool has_older, bool has_newer, typename Real>
RowSum add_terms(std::size_t size, const Real* theta, const Real* older, const Real* newer,
                 Real decay, Real factor, Real* gradient) {
  SumOfSquares decay_sum, smoothness_sum, gradient_sum;
  const auto add = [&](std::size_t i, std::size_t place) {
    Real g = gradient[i] + decay * theta[i];
    if constexpr (has_older) {
      g += factor * (theta[i] - older[i]);
      smoothness_sum.add(place, double{theta[i]} - older[i]);
    }
    if constexpr (has_newer) g += factor * (theta[i] - newer[i]);
    gradient[i] = g;
    decay_sum.add(place, theta[i]);
    gradient_sum.add(place, g);
  };
  std::size_t i = 0;
  for (; i + num_partial <= size; i += num_partial)
    for (std::size_t k = 0; k < num_partial; ++k) add(i + k, k);
  for (std::size_t k = 0; i + k < size; ++k) add(i + k, k);
  return {decay_sum.total(), smoothness_sum.total(), gradient_sum.total()};
}

template <typename Real>
void regularize_rows(const RegularizedRows<Real>& rows, RowSum* sums) {
  const auto decay = static_cast<Real>(rows.weight_decay);
  const auto factor = static_cast<Real>(rows.smoothness_over_h);
  // Where another row lives: in the array, or in a block beside it; null where there is none.
  const auto find = [&](std::int64_t row, const Real* block, std::int64_t row_in_block) {
    if (row >= 0 && row < rows.num_rows) return rows.values + row * rows.row_size;
    return block != nullptr ? block + row_in_block * rows.row_size : nullptr;
  };
  for (std::int64_t row = 0; row < rows.num_rows; ++row) {
    const std::int64_t newer_row = row + rows.rows_per_block;
    const Real* older = find(row - rows.rows_per_block, rows.before, row);
    const Real* newer = find(newer_row, rows.after, newer_row - rows.num_rows);
    const auto run = older != nullptr   ? newer != nullptr ? add_terms<true, true, Real>
                                                           : add_terms<true, false, Real>
                       : newer != nullptr ? add_terms<false, true, Real>
                                        : add_terms<false, false, Real>;
    sums[row] = run(rows.row_size, rows.values + row * rows.row_size, older, newer, decay, factor,
                    rows.gradient + row * rows.row_size);
  }
}

}  // namespace

template <typename Real>
void HostBackend<Real>::regularize(const std::vector<RegularizedRows<Real>>& arrays, RowSum* sums) {
  for (const RegularizedRows<Real>& rows : arrays) {
    regularize_rows(rows, sums);
    sums += rows.num_rows;
  }
}

template <typename Real>
void HostBackend<Real>::sgd_step(std::size_t size, const SgdRates& rates, const Real* gradient,
                                 Real* velocity, Real* values) {
  const auto momentum = static_cast<Real>(rates.momentum), rate = static_cast<Real>(rates.rate);
  const auto scale = static_cast<Real>(rates.gradient_scale);
  for (std::size_t i = 0; i < size; ++i) {
    velocity[i] = momentum * velocity[i] + scale * gradient[i];
    values[i] -= rate * velocity[i];
  }
}

template class HostQueue<CallQueue>;
template class HostQueue<Backend<float>>;
template class HostQueue<Backend<double>>;
template class HostBackend<float>;
template class HostBackend<double>;

}  // namespace host

CallQueue& host_queue() {
  static host::HostQueue<CallQueue> instance;
  return instance;
}

}  // namespace revode
