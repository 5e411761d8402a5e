#include "revode/model/share.hpp"

namespace revode {

Share::Share(const Architecture& architecture, int index, BlockRange range, Backend<float>& backend,
             Activations activations, std::uint64_t seed)
    : index_(index),
      map_(architecture, range),
      values_(map_.size(), Memory::weights),
      slice_(architecture, range, map_, backend, activations, values_.data()) {
  initialise(architecture, map_, seed, values_.data());
  slice_.load_weights();
}

GradientSums& Share::gradient() {
  if (gradient_.size() == 0) gradient_ = GradientSums(map_.size());
  return gradient_;
}

Buffer<float>& Share::velocity() {
  if (velocity_.size() == 0) velocity_ = Buffer<float>(map_.size(), Memory::momentum);
  return velocity_;
}

}  // namespace revode
