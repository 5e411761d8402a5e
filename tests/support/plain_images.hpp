// Images of a dataset as a network's input, straight from the documentation: normalise, pad, crop,
// flip.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "revode/core/random.hpp"
#include "revode/data/dataset.hpp"

namespace revode {

/// [indices, channels, height, width]
inline std::vector<float> plain_images(const Dataset& dataset,
                                       std::span<const std::int64_t> indices,
                                       const InputTransform& transform, std::int64_t epoch) {
  const auto [channels, height, width] = dataset.info.image;
  std::vector<float> images;
  for (const std::int64_t index : indices) {
    std::uint32_t row = 4, column = 4, flip = 0;
    if (transform.augment) {
      RandomStream random(transform.seed, Purpose::augmentation,
                          (static_cast<std::uint64_t>(epoch) << 32) + index);
      row = random.below(9);
      column = random.below(9);
      flip = random.below(2);
    }
    for (int c = 0; c < channels; ++c) {
      const int padded_width = width + 8;
      std::vector<float> padded((height + 8) * padded_width);
      for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x)
          padded[(y + 4) * padded_width + x + 4] =
              (static_cast<float>(dataset.image(index)[(c * height + y) * width + x]) / 255.0f -
               transform.statistics.mean[c]) /
              transform.statistics.std[c];
      for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x)
          images.push_back(
              padded[(row + y) * padded_width + column + (flip == 1 ? width - 1 - x : x)]);
    }
  }
  return images;
}

}  // namespace revode
