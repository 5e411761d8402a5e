// Jacobians at the states that an image has in a network: of the equation's right-hand side at a
// block, and of the map from one block to a later one. Known by their products with vectors.
#pragma once

#include <complex>
#include <vector>

#include "revode/analysis/depth_record.hpp"
#include "revode/analysis/force_derivatives.hpp"
#include "revode/analysis/linear_operator.hpp"
#include "revode/model/architecture.hpp"

namespace revode {

/// The force's Jacobian, or that of both forces, in front of a block of a stage:
///
///   Equation::pair          [0, F1'(Q); -F2'(P), 0]     of (P, Q)
///   Equation::second_order  F'(Q)                       of Q, the newer state
///   Equation::first_order   F'(Q)                       of Q, the newer state
class RightHandSideJacobian : public LinearOperator {
 public:
  /// block: over all stages; of the record's `image`. forces: of the block's stage; to outlive
  /// this.
  RightHandSideJacobian(const Architecture& architecture, int block, const DepthRecord& record,
                        int image, ForceDerivatives& forces);

  std::size_t size() const override;
  void apply(std::span<const double> v, std::span<double> out) override;
  void apply_transposed(std::span<const double> v, std::span<double> out) override;

 private:
  struct Part {  // rows `to` += sign * F'(state[from]) columns `from`
    int coupling = 0;
    int from = 0, to = 0;
    float sign = 1;
    std::vector<float> state;
  };
  using Product = void (ForceDerivatives::*)(int, std::span<const float>, std::span<const float>,
                                             std::span<float>);
  void add_product(Product product, const Part& part, std::span<const double> v, int from,
                   std::span<double> out, int to);

  ForceDerivatives& forces_;
  int num_slots_;
  std::vector<Part> parts_;
};

/// Eigenvalues of the equation as one of first order, from those of RightHandSideJacobian: the
/// same, but for Equation::second_order, where each value mu makes two, +-sqrt(-mu).
std::vector<std::complex<double>> eigenvalues_of(Equation equation,
                                                 std::vector<std::complex<double>> of_jacobian);

/// The derivative of the state (both slots) behind the blocks [first, last) of one stage by that in
/// front of them, couplings as they are stepped through; the rounding to the grid is taken as the
/// identity.
class DepthMapJacobian : public LinearOperator {
 public:
  /// blocks: over all stages, of one. The record must hold every edge of them.
  DepthMapJacobian(const Architecture& architecture, BlockRange blocks, const DepthRecord& record,
                   int image, ForceDerivatives& forces);

  std::size_t size() const override { return 2 * forces_.size(); }
  void apply(std::span<const double> v, std::span<double> out) override;
  void apply_transposed(std::span<const double> v, std::span<double> out) override;

 private:
  struct Step {  // target <- gamma target + beta other + scale F'(state) other
    int coupling = 0;
    int target = 0;
    double scale = 0;
    std::vector<float> state;
  };

  ForceDerivatives& forces_;
  double gamma_ = 1, beta_ = 0;
  std::vector<Step> steps_;
};

}  // namespace revode
