// What tells one set of images from another.
#include <zlib.h>

#include "revode/data/dataset.hpp"

namespace revode {

std::uint32_t label_digest(const Dataset& dataset) {
  return static_cast<std::uint32_t>(
      crc32_z(crc32(0, nullptr, 0), dataset.labels.data(), dataset.labels.size()));
}

std::uint32_t dataset_digest(const Dataset& dataset, std::span<const std::int64_t> indices) {
  uLong digest = crc32(0, nullptr, 0);
  for (const std::int64_t index : indices) digest = crc32(digest, dataset.labels.data() + index, 1);
  if (!dataset.has_images()) return static_cast<std::uint32_t>(digest);
  for (const std::int64_t index : indices) {
    const std::span<const std::uint8_t> image = dataset.image(index);
    digest = crc32(digest, image.data(), static_cast<uInt>(image.size()));
  }
  return static_cast<std::uint32_t>(digest);
}

}  // namespace revode
