// What every backend asks of a segment.
#pragma once

#include "revode/backend/segment.hpp"
#include "revode/core/error.hpp"

namespace revode {

inline void check_shape(const SegmentShape& shape) {
  REVODE_CHECK(
      shape.channels >= 1 && shape.height >= 1 && shape.width >= 1 && shape.num_couplings >= 0,
      "a segment needs channels and pixels, not {} couplings of {} x {} x {}", shape.num_couplings,
      shape.channels, shape.height, shape.width);
  REVODE_CHECK(shape.gamma == 1 || shape.gamma == -1,
               "a segment is undone exactly with gamma 1 or -1 only, not {}", shape.gamma);
  REVODE_CHECK(shape.grid_bits >= 0 && shape.grid_bits <= 23,
               "a grid has 0 to 23 bits behind the point, not {}", shape.grid_bits);
  REVODE_CHECK(shape.first_target == 0 || shape.first_target == 1,
               "a state has slots 0 and 1, no slot {} to begin with", shape.first_target);
}

}  // namespace revode
