// One channel of one image, wherever its rows lie: what the kernels of opening, transition and
// closing are handed.
#pragma once

#include <cstddef>

namespace revode::cpu {

/// Rows of one channel of one image: [height, width], rows `stride` floats apart.
struct Plane {
  const float* data = nullptr;
  int height = 0;
  int width = 0;
  std::size_t stride = 0;
};
struct MutablePlane {
  float* data = nullptr;
  std::size_t stride = 0;
};

}  // namespace revode::cpu
