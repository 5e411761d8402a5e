#include "revode/model/share.hpp"

namespace revode {

template <typename Real>
Share<Real>::Share(const Architecture& architecture, int index, BlockRange range,
                   Backend<Real>& backend, Activations activations, std::uint64_t seed)
    : index_(index),
      backend_(backend),
      map_(architecture, range),
      values_(map_.size(), Memory::weights, backend),
      slice_(architecture, range, map_, backend, activations, values_.data()) {
  initialise(architecture, map_, seed, values_.host().data());
  values_.store();
  slice_.load_weights();
}

template <typename Real>
GradientSums<Real>& Share<Real>::gradient() {
  if (!gradient_) {
    gradient_.emplace(map_.size(), backend_);
    slice_.bind_gradient(gradient_->sums());
  }
  return *gradient_;
}

template <typename Real>
StagedBuffer<Real>& Share<Real>::velocity() {
  velocity_.ensure(map_.size(), Memory::momentum, backend_);
  return velocity_;
}

template class Share<float>;
template class Share<double>;

}  // namespace revode
