#include "revode/analysis/force_derivatives.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace revode {
namespace {

/// target <- target + F(other), without the grid.
SegmentShape bare_forces(const Architecture& architecture, int stage) {
  SegmentShape shape = architecture.segment(stage, 0, architecture.stages()[stage].couplings);
  shape.gamma = 1;
  shape.beta = 0;
  shape.scale = {1, 1};
  shape.grid_bits = 0;
  return shape;
}

int target_of(const SegmentShape& shape, int coupling) {
  return (shape.first_target + coupling) % 2;
}

}  // namespace

ForceDerivatives::ForceDerivatives(const Architecture& architecture, int stage, const float* kernel,
                                   const float* bias, Backend<float>& backend)
    : shape_(bare_forces(architecture, stage)),
      backend_(backend),
      segment_(backend.make_segment(shape_)),
      gradient_(shape_.num_couplings * (shape_.kernel_size() + shape_.channels), Memory::workspace,
                backend.space()),
      overflow_(1, Memory::workspace, backend.space()),
      state_(2 * size(), Memory::workspace, backend),
      adjoint_(2 * size(), Memory::workspace, backend) {
  segment_->bind({kernel, bias});
  segment_->bind_gradient(gradient());
  segment_->load_weights();
  if (shape_.force == Force::symmetric) return;
  no_bias_ = Buffer<float>(std::size_t{1} * shape_.num_couplings * shape_.channels,
                           Memory::workspace, backend.space());
  backend.zero(no_bias_.data(), no_bias_.bytes());
  unbiased_ = backend.make_segment(shape_);
  unbiased_->bind({kernel, no_bias_.data()});
  unbiased_->load_weights();
}

void ForceDerivatives::force(int coupling, std::span<const float> x, std::span<float> out) {
  advance(*segment_, coupling, x, out);
}

void ForceDerivatives::derivative(int coupling, std::span<const float> x, std::span<const float> v,
                                  std::span<float> out) {
  // Symmetric: F' = K^T diag(sigma') K is its own transpose.
  if (shape_.force == Force::symmetric) return transposed(coupling, x, v, out);
  // Antisymmetric, A = K - K^T: F'(x) v = sigma'(A x + b) * A v. F(x) = sigma(A x + b) is above 0
  // where sigma' is 1, and A v = sigma(A v) - sigma(-A v).
  std::vector<float> mask(size()), negative(v.begin(), v.end()), below(size());
  force(coupling, x, mask);
  for (float& value : negative) value = -value;
  advance(*unbiased_, coupling, v, out);
  advance(*unbiased_, coupling, negative, below);
  for (std::size_t i = 0; i < size(); ++i) out[i] = mask[i] > 0 ? out[i] - below[i] : 0;
}

void ForceDerivatives::transposed(int coupling, std::span<const float> x, std::span<const float> v,
                                  std::span<float> out) {
  // With gamma = s = 1 and beta = 0 retreat() adds F'(other)^T adjoint[target] to adjoint[other].
  const std::vector<float> zero(size());
  const int target = target_of(shape_, coupling);
  const StateView<float> state = put(state_, coupling, x, zero);
  const StateView<float> adjoint = put(adjoint_, coupling, zero, v);
  forget_gradient(coupling);
  segment_->retreat({coupling, coupling + 1}, state, adjoint, nullptr, {overflow_.data()});
  get(adjoint_, 1 - target, out);
}

// So that sums of gradients that nobody reads don't grow out of their range.
void ForceDerivatives::forget_gradient(int coupling) {
  const SegmentGradient rows = gradient();
  backend_.zero(rows.kernel + coupling * shape_.kernel_size(),
                shape_.kernel_size() * sizeof(ExactSum));
  backend_.zero(rows.bias + std::ptrdiff_t{coupling} * shape_.channels,
                shape_.channels * sizeof(ExactSum));
  backend_.zero(overflow_.data(), overflow_.bytes());
}

SegmentGradient ForceDerivatives::gradient() {
  return {gradient_.data(), gradient_.data() + shape_.num_couplings * shape_.kernel_size()};
}

void ForceDerivatives::advance(Segment<float>& segment, int coupling, std::span<const float> x,
                               std::span<float> out) {
  const std::vector<float> zero(size());
  segment.advance({coupling, coupling + 1}, put(state_, coupling, x, zero), nullptr, nullptr);
  get(state_, target_of(shape_, coupling), out);
}

StateView<float> ForceDerivatives::put(StagedBuffer<float>& state, int coupling,
                                       std::span<const float> other,
                                       std::span<const float> target) {
  const int target_slot = target_of(shape_, coupling);
  const std::span<float> host = state.host();
  std::ranges::copy(target, host.begin() + target_slot * size());
  std::ranges::copy(other, host.begin() + (1 - target_slot) * size());
  state.store();
  return {{state.data(), state.data() + size()}, 1};
}

void ForceDerivatives::get(StagedBuffer<float>& state, int slot, std::span<float> out) {
  std::ranges::copy(state.read().subspan(slot * size(), size()), out.begin());
}

}  // namespace revode
