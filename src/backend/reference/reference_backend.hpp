// The oracle, as a class: see reference_backend.cpp for how each part computes. Private to the
// backend module.
#pragma once

#include <cstddef>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/core/buffer.hpp"

namespace revode::reference {

/// Nearest multiple of 2^-grid_bits, ties to even, -0 to +0; the identity for grid_bits 0.
template <typename Real>
Real round_to_grid(Real value, int grid_bits);

/// The nearest number with so few bits of mantissa as `precision` has, ties to even; fp32: the
/// identity.
template <typename Real>
Real round_operand(Real value, Precision precision);

/// y_o = sum_i K[o][i] * x_i, 3x3, stride 1, zero padding 1 (+=).
/// kernel [out, in, 3, 3], x [in, height, width], y [out, height, width].
template <typename Real>
void convolve(const Real* kernel, int out, int in, int height, int width, const Real* x, Real* y);

/// The adjoint of convolve() with respect to x (+=): x_i = sum_o K[o][i]^T * y_o.
template <typename Real>
void convolve_adjoint(const Real* kernel, int out, int in, int height, int width, const Real* y,
                      Real* x);

/// The adjoint of convolve() with respect to the kernel (+=): grad[o][i][ky][kx] = sum_p y_o[p]
/// x_i[p + k - 1].
template <typename Real>
void convolve_kernel_gradient(int out, int in, int height, int width, const Real* x, const Real* y,
                              Real* grad);

template <typename Real>
class ReferenceSegment final : public Segment<Real> {
 public:
  explicit ReferenceSegment(const SegmentShape& shape);

  const SegmentShape& shape() const override { return shape_; }
  std::string description() const override { return "plain loops"; }
  void bind(const SegmentWeights<Real>& weights) override { weights_ = weights; }
  void bind_gradient(const SegmentGradient& gradient) override { gradient_ = gradient; }
  void load_weights() override;
  std::unique_ptr<Recording> make_recording(int batch) override;
  std::size_t recording_bytes(int batch) const override;
  void advance(CouplingRange range, StateView<Real> state, StateNotes* notes,
               Recording* recording) override;
  void retreat(CouplingRange range, StateView<Real> state, StateView<Real> adjoint,
               const Recording* recording, OverflowNote overflow) override;
  int couplings_a_chunk() const override { return 1; }

 private:
  struct Evaluation;
  /// What a product takes of values [size].
  std::vector<Real> operand(const Real* values, std::size_t size) const;
  Evaluation evaluate(int coupling, const Real* x) const;
  void linearise(int coupling, const Real* x, const Evaluation& at, const Real* grad_force,
                 Real* grad_x, Real* grad_kernel, Real* grad_bias) const;

  SegmentShape shape_;
  SegmentWeights<Real> weights_;
  SegmentGradient gradient_;
  Buffer<Real> kernel_;  ///< [num_couplings, c, c, 3, 3]: K, or K - K^T for the antisymmetric force
  Buffer<Real> bias_;    ///< [num_couplings, c]
};

}  // namespace revode::reference
