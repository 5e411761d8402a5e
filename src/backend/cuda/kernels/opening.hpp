// The convolution of the opening and the gradient of its kernel, in the layout of images and
// states. Beside so few input channels the 3 x 3 sums are little: what takes time is the memory of
// the features, which is read and written once.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>

#include "backend/cuda/kernel.hpp"
#include "backend/cuda/kernels/images.hpp"
#include "backend/cuda/kernels/norm.hpp"

namespace revode::cuda {

/// Where a pixel lies, of all those of a batch.
struct Pixel {
  REVODE_ON_DEVICE Pixel(const ImageShape& shape, int i) {
    const auto width = static_cast<unsigned>(shape.width);
    const unsigned plane_size = width * static_cast<unsigned>(shape.height);
    image = static_cast<int>(static_cast<unsigned>(i) / plane_size);
    place = i - image * static_cast<int>(plane_size);
    y = static_cast<int>(static_cast<unsigned>(place) / width);
    x = place - y * shape.width;
  }

  int image = 0;
  int place = 0;  ///< in its plane
  int y = 0, x = 0;
};

/// The 3 x 3 pixels around one.
struct Window {
  REVODE_ON_DEVICE Window(const ImageShape& shape, const Pixel& pixel) {
    for (int k = 0; k < 3; ++k) {
      const int from_y = pixel.y + k - 1, from_x = pixel.x + k - 1;
      has_row[k] = 0 <= from_y && from_y < shape.height;
      has_column[k] = 0 <= from_x && from_x < shape.width;
      row[k] = (has_row[k] ? from_y : pixel.y) * shape.width;
      column[k] = has_column[k] ? from_x : pixel.x;
    }
  }

  /// values [3, 3] <- those of a plane, zero outside. All loads are made, of some other pixel
  /// there: so none waits for a branch.
  REVODE_ON_DEVICE void load(const float* plane, float* values) const {
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; ++x) {
        const float value = plane[row[y] + column[x]];
        values[3 * y + x] = has_row[y] && has_column[x] ? value : 0;
      }
  }

  bool has_row[3], has_column[3];
  int row[3], column[3];
};

/// Feature planes <- K images, or with first_channel > 0 += , of at most most_channels input
/// channels; zero padding 1. A block computes some features of as many pixels as it has threads.
struct OpeningConvolution {
  static constexpr std::string_view name = "opening_convolution";
  static constexpr int num_threads = 256, num_phases = 2, features_a_block = 8, most_channels = 16;
  struct Shared {
    Four weights[most_channels * 9][features_a_block / 4];
  };
  ImageShape shape;  ///< of the images
  const float* images = nullptr;
  const float* kernel = nullptr;  ///< [features, channels, 3, 3]
  int first_channel = 0;
  FeaturePlanes planes;

  REVODE_ON_DEVICE std::int64_t num_blocks() const {
    return std::int64_t{(planes.num_values() + num_threads - 1) / num_threads} * num_groups();
  }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t block, int thread,
                                   Shared& shared) const {
    const int run = static_cast<int>(block) / num_groups();
    const int first_feature = (static_cast<int>(block) - run * num_groups()) * features_a_block;
    if (phase == 0) {
      load_weights(first_feature, thread, shared);
      return;
    }
    const int i = run * num_threads + thread;
    if (i >= planes.num_values()) return;
    const Pixel pixel(shape, i);
    const Window window(shape, pixel);
    float sum[features_a_block] = {};
    for (int c = 0; c < num_channels(); ++c) {
      const std::int64_t plane = std::int64_t{1} * pixel.image * shape.channels + first_channel + c;
      float x[9];
      window.load(images + plane * shape.plane_size(), x);
      for (int tap = 0; tap < 9; ++tap)
        for (int four = 0; four < features_a_block / 4; ++four) {
          const Four weights = shared.weights[9 * c + tap][four];
          for (int k = 0; k < 4; ++k)
            sum[4 * four + k] = multiply_add(weights.of[k], x[tap], sum[4 * four + k]);
        }
    }
    for (int k = 0; k < features_a_block; ++k) {
      const int f = first_feature + k;
      if (f >= planes.num_features()) continue;
      float* const y = planes.plane(pixel.image, f) + pixel.place;
      *y = first_channel == 0 ? sum[k] : *y + sum[k];
    }
  }
  bool operator==(const OpeningConvolution&) const = default;
  Accesses accesses() const {
    return planes.writes()
        .reads(images, shape.size())
        .reads(kernel, std::size_t{9} * planes.num_features() * shape.channels);
  }

 private:
  REVODE_ON_DEVICE int num_groups() const {
    return (planes.num_features() + features_a_block - 1) / features_a_block;
  }
  REVODE_ON_DEVICE int num_channels() const {
    const int left = shape.channels - first_channel;
    return left < most_channels ? left : most_channels;
  }
  REVODE_ON_DEVICE void load_weights(int first_feature, int thread, Shared& shared) const {
    for (int e = thread; e < num_channels() * 9 * features_a_block; e += num_threads) {
      const int k = e % features_a_block, row = e / features_a_block;
      const std::int64_t f = first_feature + k;
      shared.weights[row][k / 4].of[k % 4] =
          f < planes.num_features() ? kernel[(f * shape.channels + first_channel) * 9 + row] : 0;
    }
  }
};

/// parts [num_parts, features, channels, 3, 3] <- the gradient of the kernel from each part of the
/// pixels. dL/dx is formed on the way, as by NormBackward. A block takes a part, for some features
/// and input channels; a thread sums in single precision over its pixels, the block in double over
/// its threads.
struct SumOpeningGradient {
  static constexpr std::string_view name = "sum_opening_gradient";
  static constexpr int num_threads = 128, num_phases = 2, num_parts = 64;
  static constexpr int features_a_block = 2, channels_a_block = 3;
  static constexpr int num_sums = features_a_block * channels_a_block * 9;
  struct Shared {
    float sums[num_sums][num_threads];
  };
  ImageShape shape;  ///< of the images
  const float* images = nullptr;
  FeaturePlanes x;
  FeatureAdjoint adjoint;
  NormParameters norm;
  const float* means = nullptr;
  double* parts = nullptr;

  REVODE_ON_DEVICE std::int64_t kernel_size() const {
    return std::int64_t{9} * x.num_features() * shape.channels;
  }
  REVODE_ON_DEVICE std::int64_t num_blocks() const {
    return std::int64_t{num_parts} * num_feature_groups() * num_channel_groups();
  }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t block, int thread,
                                   Shared& shared) const {
    const int rest = static_cast<int>(block) / num_feature_groups();
    const int group = static_cast<int>(block) - rest * num_feature_groups();
    const int first_feature = group * features_a_block;
    const int first_channel = rest % num_channel_groups() * channels_a_block;
    const int part = rest / num_channel_groups();
    if (phase == 0)
      sum_over_pixels(part, first_feature, first_channel, thread, shared);
    else
      sum_over_threads(part, first_feature, first_channel, thread, shared);
  }
  bool operator==(const SumOpeningGradient&) const = default;
  Accesses accesses() const {
    return adjoint.read_in(norm.read_in(x.reads(), x.num_features()))
        .reads(images, shape.size())
        .reads(means, 2 * x.num_features())
        .writes(parts, num_parts * kernel_size());
  }

 private:
  REVODE_ON_DEVICE int num_feature_groups() const {
    return (x.num_features() + features_a_block - 1) / features_a_block;
  }
  REVODE_ON_DEVICE int num_channel_groups() const {
    return (shape.channels + channels_a_block - 1) / channels_a_block;
  }
  /// The last one, again, where there are no more: its sums are dropped.
  REVODE_ON_DEVICE int feature(int f) const {
    return f < x.num_features() ? f : x.num_features() - 1;
  }
  REVODE_ON_DEVICE int channel(int c) const { return c < shape.channels ? c : shape.channels - 1; }

  REVODE_ON_DEVICE void sum_over_pixels(int part, int first_feature, int first_channel, int thread,
                                        Shared& shared) const {
    static_assert(features_a_block == 2);
    const int f[2] = {feature(first_feature), feature(first_feature + 1)};
    const NormAdjoint back[2] = {{norm.of(f[0]), means, f[0]}, {norm.of(f[1]), means, f[1]}};
    const int values_a_part = (x.num_values() + num_parts - 1) / num_parts;
    const int begin = part * values_a_part;
    const int end = begin + values_a_part < x.num_values() ? begin + values_a_part : x.num_values();
    const std::int64_t behind_plane = std::int64_t{1} * (x.channels - 1) * x.plane_size;
    float sum[features_a_block][channels_a_block][9] = {};
    for (int i = begin + thread; i < end; i += num_threads) {
      const Pixel pixel(shape, i);
      const FeatureValue value{pixel.image, i + pixel.image * behind_plane};
      const Window window(shape, pixel);
      float grad[features_a_block], image[channels_a_block][9];
      for (int k = 0; k < features_a_block; ++k)
        grad[k] = back[k]({x.plane(0, f[k])[value.offset], adjoint.at(f[k], value)});
      for (int c = 0; c < channels_a_block; ++c) {
        const std::int64_t plane =
            std::int64_t{1} * pixel.image * shape.channels + channel(first_channel + c);
        window.load(images + plane * shape.plane_size(), image[c]);
      }
      for (int k = 0; k < features_a_block; ++k)
        for (int c = 0; c < channels_a_block; ++c)
          for (int tap = 0; tap < 9; ++tap)
            sum[k][c][tap] = multiply_add(grad[k], image[c][tap], sum[k][c][tap]);
    }
    for (int k = 0; k < features_a_block; ++k)
      for (int c = 0; c < channels_a_block; ++c)
        for (int tap = 0; tap < 9; ++tap)
          shared.sums[(k * channels_a_block + c) * 9 + tap][thread] = sum[k][c][tap];
  }

  REVODE_ON_DEVICE void sum_over_threads(int part, int first_feature, int first_channel, int thread,
                                         const Shared& shared) const {
    static_assert(num_sums <= num_threads);
    if (thread >= num_sums) return;
    const std::int64_t f = first_feature + thread / 9 / channels_a_block;
    const int c = first_channel + thread / 9 % channels_a_block;
    if (f >= x.num_features() || c >= shape.channels) return;
    // Each begins elsewhere, so that threads beside each other do not meet in a bank.
    double sum = 0;
    for (int k = 0; k < num_threads; ++k) sum += shared.sums[thread][(thread + k) % num_threads];
    parts[part * kernel_size() + (f * shape.channels + c) * 9 + thread % 9] = sum;
  }
};

/// sums [kernel_size] += of the parts, in their order, one contribution an entry.
struct AddOpeningGradient {
  static constexpr std::string_view name = "add_opening_gradient";
  std::int64_t kernel_size = 0;
  const double* parts = nullptr;  ///< [SumOpeningGradient::num_parts, kernel_size]
  ExactSum* sums = nullptr;
  int* overflow = nullptr;
  int overflow_code = 0;

  REVODE_ON_DEVICE std::int64_t size() const { return kernel_size; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    double sum = 0;
    for (int part = 0; part < SumOpeningGradient::num_parts; ++part)
      sum += parts[part * kernel_size + i];
    if (!add_contribution(static_cast<float>(sum), sums + i))
      raise_atomically(overflow, overflow_code);
  }
  bool operator==(const AddOpeningGradient&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(parts, SumOpeningGradient::num_parts * kernel_size)
        .writes(sums, kernel_size)
        .adds(overflow, 1);
  }
};

}  // namespace revode::cuda
