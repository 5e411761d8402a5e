// Images as a dataset keeps them, and which of them are cut to become a network's input.
#pragma once

#include <cstddef>
#include <cstdint>

namespace revode {

/// The images of a dataset, and what their pixels are normalised by.
template <typename Real>
struct StoredImages {
  std::int64_t num_images = 0;
  int channels = 0;
  int height = 0;
  int width = 0;
  const std::uint8_t* pixels = nullptr;  ///< [num_images, channels, height, width]
  const Real* mean = nullptr;            ///< [channels], of pixels / 255
  const Real* deviation = nullptr;       ///< [channels], likewise

  std::size_t plane_size() const { return static_cast<std::size_t>(height) * width; }
  std::size_t image_size() const { return channels * plane_size(); }
  bool operator==(const StoredImages&) const = default;
};

/// One image as it becomes input: its rows and columns from `row` and `column` on, as many as it
/// has, then mirrored where `flip`. The default is the image itself.
struct DrawnImage {
  std::int64_t index = 0;  ///< of the image in the dataset
  int row = 0;             ///< may be negative: there is zero around an image
  int column = 0;
  bool flip = false;
};

}  // namespace revode
