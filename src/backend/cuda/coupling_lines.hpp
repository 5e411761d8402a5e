// The lines of a segment, as its kernels take them.
#pragma once

#include <cmath>

#include "revode/backend/segment.hpp"

#include "backend/cuda/kernels/coupling.hpp"

namespace revode::cuda {

inline CouplingLine line_of(const SegmentShape& shape, int target_slot) {
  return {.gamma = static_cast<float>(shape.gamma),
          .beta = static_cast<float>(shape.beta),
          .scale = static_cast<float>(shape.scale[target_slot]),
          .unit = grid_unit(shape.grid_bits),
          .limit = std::ldexp(1.0f, 24 - shape.grid_bits)};
}

}  // namespace revode::cuda
