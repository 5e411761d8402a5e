// What backends that compute in host memory have in common: calls are done when they return, and
// arithmetic on flat arrays is plain loops in one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "revode/backend/backend.hpp"

namespace revode::host {

/// `Base` (CallQueue or a Backend) in host memory.
template <typename Base>
class HostQueue : public Base {
 public:
  MemorySpace& space() override { return host_memory(); }
  Mark mark() override { return 0; }
  bool reached(Mark) override { return true; }
  void wait(Mark) override {}
  void zero(void* to, std::size_t bytes) override;
  void copy(void* to, const void* from, std::size_t bytes) override;
  void copy_in(void* to, const void* host, std::size_t bytes) override { copy(to, host, bytes); }
  void copy_out(void* host, const void* from, std::size_t bytes) override {
    copy(host, from, bytes);
  }
  void digest(const std::vector<std::span<const std::byte>>& arrays,
              std::uint64_t* digests) override;
};

template <typename Real>
class HostBackend : public HostQueue<Backend<Real>> {
 public:
  void softmax_cross_entropy(const LossShape& shape, const Real* logits, const std::uint8_t* labels,
                             double* probabilities, LossSums* sums) override;
  void softmax_cross_entropy_gradient(const LossShape& shape, const double* probabilities,
                                      const std::uint8_t* labels, int mini_batch,
                                      Real* grad_logits) override;
  void read_running_averages(int num_features, const Real* mean, const Real* variance,
                             NormStatistics statistics) override;
  void update_running_averages(int num_features, const std::vector<double>& counts,
                               NormStatistics statistics, Real* mean, Real* variance) override;
  void compare(std::size_t size, const Real* values, const Real* expected,
               Comparison* result) override;
  void find_non_finite(std::size_t size, const Real* values, int code, int* found) override;
  void finish_sums(std::size_t size, const ExactSum* sums, Real* values,
                   std::int64_t* last_out_of_range) override;
  void regularize(const std::vector<RegularizedRows<Real>>& arrays, RowSum* sums) override;
  void sgd_step(std::size_t size, const SgdRates& rates, const Real* gradient, Real* velocity,
                Real* values) override;
};

}  // namespace revode::host
