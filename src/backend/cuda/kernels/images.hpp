// Between the layout of states, [batch, channels, height, width], and that of the convolutions, in
// which the channel runs fastest.
#pragma once

#include <cstdint>
#include <string_view>

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
  Accesses accesses() const { return Accesses().reads(from, size()).writes(to, size()); }
};

}  // namespace revode::cuda
