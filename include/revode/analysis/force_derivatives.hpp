// The forces of one stage and their derivatives at given states, for whoever looks at a network
// rather than trains it: by the backend's own segments, in its precision, on arrays of the host.
#pragma once

#include <memory>
#include <span>

#include "revode/backend/backend.hpp"
#include "revode/model/architecture.hpp"

namespace revode {

class ForceDerivatives {
 public:
  /// kernel [couplings, c, c, 3, 3] and bias [couplings, c] of the stage, in the backend's memory:
  /// taken over now.
  ForceDerivatives(const Architecture& architecture, int stage, const float* kernel,
                   const float* bias, Backend<float>& backend);

  /// Elements that a force takes and gives: channels x height x width.
  std::size_t size() const { return shape_.image_size(); }

  // x, v, out [size()]; out is overwritten and must not alias. coupling: within the stage.

  /// out <- F(x)
  void force(int coupling, std::span<const float> x, std::span<float> out);
  /// out <- F'(x) v
  void derivative(int coupling, std::span<const float> x, std::span<const float> v,
                  std::span<float> out);
  /// out <- F'(x)^T v
  void transposed(int coupling, std::span<const float> x, std::span<const float> v,
                  std::span<float> out);

 private:
  void advance(Segment<float>& segment, int coupling, std::span<const float> x,
               std::span<float> out);
  SegmentGradient gradient();
  void forget_gradient(int coupling);
  StateView<float> put(StagedBuffer<float>& state, int coupling, std::span<const float> other,
                       std::span<const float> target);
  void get(StagedBuffer<float>& state, int slot, std::span<float> out);

  SegmentShape shape_;
  Backend<float>& backend_;
  std::unique_ptr<Segment<float>> segment_;
  /// The same without biases: F(x) = sigma((K - K^T) x).
  std::unique_ptr<Segment<float>> unbiased_;
  Buffer<float> no_bias_;
  Buffer<ExactSum> gradient_;  ///< which nobody wants
  Buffer<int> overflow_;
  StagedBuffer<float> state_, adjoint_;  ///< [2][size()]
};

}  // namespace revode
