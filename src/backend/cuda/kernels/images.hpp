// Images cut from a dataset; and between the layout of states, [batch, channels, height, width],
// and that of the convolutions, in which the channel runs fastest.
#pragma once

#include <cstdint>
#include <string_view>

#include "revode/backend/images.hpp"

#include "backend/cuda/kernel.hpp"

namespace revode::cuda {

/// Images of one shape, or the planes of a slot.
struct ImageShape {
  int batch = 0;
  int channels = 0;
  int height = 0;
  int width = 0;

  REVODE_ON_DEVICE std::int64_t plane_size() const {
    return static_cast<std::int64_t>(height) * width;
  }
  REVODE_ON_DEVICE std::int64_t size() const {
    return static_cast<std::int64_t>(batch) * channels * plane_size();
  }
  bool operator==(const ImageShape&) const = default;
};

/// images [num_drawn, channels, height, width] <- see Backend::cut_images()
struct CutImages {
  static constexpr std::string_view name = "cut_images";
  StoredImages<float> stored;
  int num_drawn = 0;
  const DrawnImage* drawn = nullptr;  ///< [num_drawn]
  float* images = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const {
    return std::int64_t{1} * num_drawn * stored.channels * stored.height * stored.width;
  }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const auto x = static_cast<int>(i % stored.width);
    const std::int64_t line = i / stored.width;
    const auto y = static_cast<int>(line % stored.height);
    const auto c = static_cast<int>(line / stored.height % stored.channels);
    const DrawnImage& image = drawn[line / stored.height / stored.channels];
    const int from_y = y + image.row;
    const int from_x = (image.flip ? stored.width - 1 - x : x) + image.column;
    float value = 0;
    if (0 <= from_y && from_y < stored.height && 0 <= from_x && from_x < stored.width) {
      const std::int64_t line_there = (image.index * stored.channels + c) * stored.height + from_y;
      const auto pixel = static_cast<float>(stored.pixels[line_there * stored.width + from_x]);
      value = (pixel / 255.0f - stored.mean[c]) / stored.deviation[c];
    }
    images[i] = value;
  }
  bool operator==(const CutImages&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(stored.pixels, stored.num_images * stored.image_size())
        .reads(stored.mean, stored.channels)
        .reads(stored.deviation, stored.channels)
        .reads(drawn, num_drawn)
        .writes(images, size());
  }
};

/// to [batch, height, width, channels] <- from [batch, channels, height, width]
struct ChannelsLast {
  static constexpr std::string_view name = "channels_last";
  ImageShape shape;
  const float* from = nullptr;
  float* to = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return shape.size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t plane = shape.plane_size();
    const std::int64_t channel = i % shape.channels, pixel = i / shape.channels % plane;
    const std::int64_t image = i / shape.channels / plane;
    to[i] = from[(image * shape.channels + channel) * plane + pixel];
  }
  bool operator==(const ChannelsLast&) const = default;
  Accesses accesses() const { return Accesses().reads(from, size()).writes(to, size()); }
};

/// to [batch, channels, height, width] <- from [batch, height, width, channels]
struct ChannelsFirst {
  static constexpr std::string_view name = "channels_first";
  ImageShape shape;
  const float* from = nullptr;
  float* to = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return shape.size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t plane = shape.plane_size();
    const std::int64_t pixel = i % plane, channel = i / plane % shape.channels;
    const std::int64_t image = i / plane / shape.channels;
    to[i] = from[(image * plane + pixel) * shape.channels + channel];
  }
  bool operator==(const ChannelsFirst&) const = default;
  Accesses accesses() const { return Accesses().reads(from, size()).writes(to, size()); }
};

}  // namespace revode::cuda
