// A coupling's force by direct convolutions, forward and back. Compiled once an instruction set.
#if defined(REVODE_CPU_DIRECT_COUPLING_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef REVODE_CPU_DIRECT_COUPLING_INL_HPP_
#undef REVODE_CPU_DIRECT_COUPLING_INL_HPP_
#else
#define REVODE_CPU_DIRECT_COUPLING_INL_HPP_
#endif

#include <cstddef>

#include "backend/cpu/coupling-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

/// F and the way back through it by direct convolutions.
class DirectForm {
 public:
  DirectForm(const SegmentPlan& plan, int num_images, float*)
      : plan_(plan), num_images_(num_images) {}

  /// F(other) of coupling j into `epilogue`, sigma(...) into line.hidden: one code path for all
  /// callers, so that the way back meets the bits of the way forward.
  template <Force force, typename Epilogue>
  void evaluate_force(int j, const Line& line, Epilogue& epilogue) const {
    if constexpr (force == Force::symmetric) {
      // z = sigma(K x + b);  F = K^T z
      StoreHidden store_hidden{line.bias, line.hidden};
      convolve(plan_.planes, num_images_, line.other, plan_.kernel_of(j), store_hidden);
      convolve(plan_.planes, num_images_, line.hidden, plan_.adjoint_kernel_of(j), epilogue);
    } else {
      // F = sigma((K - K^T) x + b)
      convolve(plan_.planes, num_images_, line.other, plan_.kernel_of(j), epilogue);
    }
  }

  /// F(other) into `invert`, unless that is null: line.hidden is there already then. And
  /// adjoint_other += F'(other)^T g and the gradients of K and b:
  ///   symmetric      gz = sigma' (K g);  K^T gz;  dK from (z, g) and (gz, x)
  ///   antisymmetric  gu = sigma' g;  A^T gu = -A gu;  dA from (gu, x), where A = K - K^T
  template <Force force, typename Invert>
  void retreat(int j, const Line& line, Invert* invert, const Linearisation& at) const {
    const Planes& planes = plan_.planes;
    if (invert != nullptr) evaluate_force<force>(j, line, *invert);
    if constexpr (force == Force::symmetric) {
      StoreMasked store_masked{line.hidden, at.grad_hidden};
      convolve(planes, num_images_, at.g, plan_.kernel_of(j), store_masked);
      AddTo add{at.adjoint_other};
      convolve(planes, num_images_, at.grad_hidden, plan_.adjoint_kernel_of(j), add);
      const GradientPair pairs[] = {{line.hidden, at.g}, {at.grad_hidden, line.other}};
      add_kernel_gradient(planes, num_images_, pairs, 2, at.grad_kernel);
      add_bias_gradient(planes, num_images_, at.grad_hidden, at.grad_bias);
    } else {
      mask(num_images_ * planes.image_size(), line.hidden, at.g);
      SubtractFrom subtract{at.adjoint_other};
      convolve(planes, num_images_, at.g, plan_.kernel_of(j), subtract);
      const GradientPair pair{at.g, line.other};
      add_kernel_gradient(planes, num_images_, &pair, 1, at.grad_kernel);
      add_bias_gradient(planes, num_images_, at.g, at.grad_bias);
    }
  }

 private:
  const SegmentPlan& plan_;
  int num_images_;
};

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once an instruction set
