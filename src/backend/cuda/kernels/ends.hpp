// Opening, transitions and closing but for their convolutions and norms; see backend/ends.hpp.
#pragma once

#include <cstdint>
#include <string_view>

#include "revode/backend/ends.hpp"

#include "backend/cuda/kernel.hpp"
#include "backend/cuda/kernels/norm.hpp"

namespace revode::cuda {

/// Feature planes <- values [batch, height, width, features].
struct ScatterFeatures {
  static constexpr std::string_view name = "scatter_features";
  FeaturePlanes planes;
  const float* values = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return planes.size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const int features = planes.num_features();
    const std::int64_t pixel = i % planes.plane_size, f = i / planes.plane_size % features;
    const std::int64_t n = i / planes.plane_size / features;
    planes.at(i) = values[(n * planes.plane_size + pixel) * features + f];
  }
  Accesses accesses() const { return planes.writes().reads(values, size()); }
};

/// Feature planes of another array <- feature planes.
struct CopyFeatures {
  static constexpr std::string_view name = "copy_features";
  FeaturePlanes from, to;

  REVODE_ON_DEVICE std::int64_t size() const { return from.size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const { to.at(i) = from.at(i); }
  Accesses accesses() const { return from.reads().and_also(to.writes()); }
};

/// values [batch, height, width, features] <- feature planes.
struct GatherFeatures {
  static constexpr std::string_view name = "gather_features";
  FeaturePlanes planes;
  float* values = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return planes.size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const int features = planes.num_features();
    const std::int64_t pixel = i % planes.plane_size, f = i / planes.plane_size % features;
    const std::int64_t n = i / planes.plane_size / features;
    values[(n * planes.plane_size + pixel) * features + f] = planes.at(i);
  }
  Accesses accesses() const { return planes.reads().writes(values, size()); }
};

/// packed [out, 3, 3, in] <- kernel [out, in, 3, 3]
struct PackOpeningKernel {
  static constexpr std::string_view name = "pack_opening_kernel";
  int out_channels = 0;
  int in_channels = 0;
  const float* kernel = nullptr;
  float* packed = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const {
    return std::int64_t{9} * out_channels * in_channels;
  }
  REVODE_ON_DEVICE void operator()(std::int64_t index) const {
    const std::int64_t i = index % in_channels, tap = index / in_channels % 9;
    const std::int64_t o = index / in_channels / 9;
    packed[index] = kernel[(o * in_channels + i) * 9 + tap];
  }
  Accesses accesses() const { return Accesses().reads(kernel, size()).writes(packed, size()); }
};

/// sums [out, in, 3, 3] += gradient [out, 3, 3, in], one contribution an entry.
struct AddOpeningGradient {
  static constexpr std::string_view name = "add_opening_gradient";
  int out_channels = 0;
  int in_channels = 0;
  const float* gradient = nullptr;
  ExactSum* sums = nullptr;
  int* overflow = nullptr;
  int overflow_code = 0;

  REVODE_ON_DEVICE std::int64_t size() const {
    return std::int64_t{9} * out_channels * in_channels;
  }
  REVODE_ON_DEVICE void operator()(std::int64_t index) const {
    const std::int64_t tap = index % 9, i = index / 9 % in_channels, o = index / 9 / in_channels;
    const float value = gradient[(o * 9 + tap) * in_channels + i];
    if (!add_contribution(value, sums + index)) raise_atomically(overflow, overflow_code);
  }
  Accesses accesses() const {
    return Accesses().reads(gradient, size()).writes(sums, size()).adds(overflow, 1);
  }
};

/// The transition of one slot.
struct SlotTransition {
  TransitionShape shape;
  int channels_in_front = 0;

  explicit SlotTransition(const TransitionShape& shape_in)
      : shape(shape_in), channels_in_front(shape_in.channels_in_front()) {}
  REVODE_ON_DEVICE std::int64_t in_size() const {
    return std::int64_t{1} * shape.batch * shape.in_channels * shape.height * shape.width;
  }
  REVODE_ON_DEVICE std::int64_t out_size() const {
    return std::int64_t{1} * shape.batch * shape.out_channels * (shape.height / 2) *
           (shape.width / 2);
  }
};

/// out <- round(mean of 2 x 2), zero channels in front and behind.
struct PoolSlot {
  static constexpr std::string_view name = "pool_slot";
  SlotTransition of;
  float unit = 0;
  const float* in = nullptr;
  float* out = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return of.out_size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const int width = of.shape.width, half_width = width / 2, half_height = of.shape.height / 2;
    const std::int64_t x = i % half_width, y = i / half_width % half_height;
    const std::int64_t row = i / half_width / half_height, n = row / of.shape.out_channels;
    const std::int64_t channel = row % of.shape.out_channels - of.channels_in_front;
    if (channel < 0 || channel >= of.shape.in_channels) {
      out[i] = 0;
      return;
    }
    const float* corner =
        in + ((n * of.shape.in_channels + channel) * of.shape.height + 2 * y) * width + 2 * x;
    out[i] =
        round_to_grid((corner[0] + corner[1] + corner[width] + corner[width + 1]) * 0.25f, unit);
  }
  Accesses accesses() const { return Accesses().reads(in, of.in_size()).writes(out, size()); }
};

/// grad_in <- a quarter of grad_out at each of the 2 x 2.
struct UnpoolSlot {
  static constexpr std::string_view name = "unpool_slot";
  SlotTransition of;
  const float* grad_out = nullptr;
  float* grad_in = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return of.in_size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const int width = of.shape.width, height = of.shape.height;
    const std::int64_t x = i % width / 2, y = i / width % height / 2, row = i / width / height;
    const std::int64_t channel = row % of.shape.in_channels + of.channels_in_front;
    const std::int64_t n = row / of.shape.in_channels;
    grad_in[i] =
        0.25f *
        grad_out[((n * of.shape.out_channels + channel) * (height / 2) + y) * (width / 2) + x];
  }
  Accesses accesses() const {
    return Accesses().reads(grad_out, of.out_size()).writes(grad_in, size());
  }
};

/// pooled [batch, features] <- mean over the plane of relu(norm(x)). A block a mean.
struct PoolFeatures {
  static constexpr std::string_view name = "pool_features";
  static constexpr int num_threads = summing_threads, num_phases = 2;
  using Shared = PartialSums;
  FeaturePlanes planes;
  NormParameters norm;
  float* pooled = nullptr;

  REVODE_ON_DEVICE std::int64_t num_blocks() const {
    return std::int64_t{1} * planes.batch * planes.num_features();
  }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t block, int thread,
                                   Shared& shared) const {
    if (phase == 0) {
      const int f = static_cast<int>(block % planes.num_features());
      const float* x = planes.plane(block / planes.num_features(), f);
      const FeatureNorm at = norm.of(f);
      double sum = 0;
      for (std::int64_t p = thread; p < planes.plane_size; p += num_threads) sum += relu(at(x[p]));
      shared.of_thread[thread] = sum;
    } else if (thread == 0) {
      pooled[block] = static_cast<float>(shared.total() / static_cast<double>(planes.plane_size));
    }
  }
  Accesses accesses() const {
    return norm.read_in(planes.reads(), planes.num_features())
        .writes(pooled, std::size_t{1} * planes.batch * planes.num_features());
  }
};

/// Each row of rows [num_rows, size of a row] <- row.
struct FillRows {
  static constexpr std::string_view name = "fill_rows";
  int num_rows = 0, row_size = 0;
  const float* row = nullptr;
  float* rows = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return std::int64_t{1} * num_rows * row_size; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const { rows[i] = row[i % row_size]; }
  Accesses accesses() const { return Accesses().reads(row, row_size).writes(rows, size()); }
};

/// sums [num_values] += values, one contribution an entry.
struct AddContributions {
  static constexpr std::string_view name = "add_contributions";
  std::int64_t num_values = 0;
  const float* values = nullptr;
  ExactSum* sums = nullptr;
  int* overflow = nullptr;  ///< becomes at least `overflow_code` where an entry does not fit
  int overflow_code = 0;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    if (!add_contribution(values[i], sums + i)) raise_atomically(overflow, overflow_code);
  }
  Accesses accesses() const {
    return Accesses().reads(values, num_values).writes(sums, num_values).adds(overflow, 1);
  }
};

/// sums [columns] += the sums over rows of values [num_rows, columns], one contribution an entry.
struct AddColumnSums {
  static constexpr std::string_view name = "add_column_sums";
  int num_rows = 0, columns = 0;
  const float* values = nullptr;
  ExactSum* sums = nullptr;
  int* overflow = nullptr;
  int overflow_code = 0;

  REVODE_ON_DEVICE std::int64_t size() const { return columns; }
  REVODE_ON_DEVICE void operator()(std::int64_t k) const {
    float sum = 0;
    for (int n = 0; n < num_rows; ++n) sum += values[std::int64_t{1} * n * columns + k];
    if (!add_contribution(sum, sums + k)) raise_atomically(overflow, overflow_code);
  }
  Accesses accesses() const {
    return Accesses()
        .reads(values, std::size_t{1} * num_rows * columns)
        .writes(sums, columns)
        .adds(overflow, 1);
  }
};

/// Each plane of a feature <- its value in values [batch, features].
struct SpreadOverPlanes {
  static constexpr std::string_view name = "spread_over_planes";
  FeaturePlanes planes;
  const float* values = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return planes.size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    planes.at(i) = values[i / planes.plane_size];
  }
  Accesses accesses() const {
    return planes.writes().reads(values, std::size_t{1} * planes.batch * planes.num_features());
  }
};

}  // namespace revode::cuda
