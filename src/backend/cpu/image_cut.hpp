// One image of a dataset as it becomes input, row by row.
#pragma once

#include <algorithm>
#include <cstdint>

#include "revode/backend/images.hpp"

namespace revode::cpu {

/// output[0, count) <- (pixel / 255 - mean) / deviation; a straight loop, so that the compiler
/// vectorises it.
inline void normalise(const std::uint8_t* pixels, int count, float mean, float deviation,
                      float* output) {
  for (int x = 0; x < count; ++x)
    output[x] = (static_cast<float>(pixels[x]) / 255.0f - mean) / deviation;
}

/// image [channels, height, width] (overwritten); see Backend::cut_images().
inline void cut_image(const StoredImages<float>& stored, const DrawnImage& drawn, float* image) {
  const int height = stored.height, width = stored.width;
  // Columns [first, last) lie inside of the stored image, before any flip.
  const int first = std::clamp(-drawn.column, 0, width);
  const int last = std::clamp(width - drawn.column, first, width);
  const std::uint8_t* pixels = stored.pixels + drawn.index * stored.image_size();
  for (int c = 0; c < stored.channels; ++c, pixels += stored.plane_size()) {
    for (int y = 0; y < height; ++y, image += width) {
      const int from = y + drawn.row;
      if (from < 0 || from >= height) {
        std::fill_n(image, width, 0.0f);
        continue;
      }
      std::fill(image, image + first, 0.0f);
      normalise(pixels + from * width + first + drawn.column, last - first, stored.mean[c],
                stored.deviation[c], image + first);
      std::fill(image + last, image + width, 0.0f);
      if (drawn.flip) std::reverse(image, image + width);
    }
  }
}

}  // namespace revode::cpu
