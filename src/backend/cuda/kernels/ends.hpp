// Transitions and closing but for its norm; see backend/ends.hpp.
#pragma once

#include <cstdint>
#include <string_view>

#include "revode/backend/ends.hpp"

#include "backend/cuda/kernel.hpp"
#include "backend/cuda/kernels/norm.hpp"

namespace revode::cuda {

/// A transition of both slots, one behind the other.
struct Transition {
  TransitionShape shape;
  int channels_in_front = 0;

  explicit Transition(const TransitionShape& shape_in)
      : shape(shape_in), channels_in_front(shape_in.channels_in_front()) {}
  /// Of a slot.
  REVODE_ON_DEVICE std::int64_t in_size() const {
    return std::int64_t{1} * shape.batch * shape.in_channels * shape.height * shape.width;
  }
  REVODE_ON_DEVICE std::int64_t out_size() const {
    return std::int64_t{1} * shape.batch * shape.out_channels * (shape.height / 2) *
           (shape.width / 2);
  }
  bool operator==(const Transition&) const = default;
};

/// out <- round(mean of 2 x 2), zero channels in front and behind.
struct PoolSlots {
  static constexpr std::string_view name = "pool_slots";
  Transition of;
  float unit = 0;
  const float* in[2] = {nullptr, nullptr};
  float* out[2] = {nullptr, nullptr};

  REVODE_ON_DEVICE std::int64_t size() const { return 2 * of.out_size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t item) const {
    const bool is_second = item >= of.out_size();
    const std::int64_t i = is_second ? item - of.out_size() : item;
    float& result = (is_second ? out[1] : out[0])[i];
    const int width = of.shape.width, half_width = width / 2, half_height = of.shape.height / 2;
    const std::int64_t line = i / half_width, row = line / half_height;
    const std::int64_t x = i - line * half_width, y = line - row * half_height;
    const std::int64_t n = row / of.shape.out_channels;
    const std::int64_t channel = row - n * of.shape.out_channels - of.channels_in_front;
    if (channel < 0 || channel >= of.shape.in_channels) {
      result = 0;
      return;
    }
    const float* corner = (is_second ? in[1] : in[0]) +
                          ((n * of.shape.in_channels + channel) * of.shape.height + 2 * y) * width +
                          2 * x;
    result =
        round_to_grid((corner[0] + corner[1] + corner[width] + corner[width + 1]) * 0.25f, unit);
  }
  bool operator==(const PoolSlots&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(in[0], of.in_size())
        .reads(in[1], of.in_size())
        .writes(out[0], of.out_size())
        .writes(out[1], of.out_size());
  }
};

/// grad_in <- a quarter of grad_out at each of the 2 x 2.
struct UnpoolSlots {
  static constexpr std::string_view name = "unpool_slots";
  Transition of;
  const float* grad_out[2] = {nullptr, nullptr};
  float* grad_in[2] = {nullptr, nullptr};

  REVODE_ON_DEVICE std::int64_t size() const { return 2 * of.in_size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t item) const {
    const bool is_second = item >= of.in_size();
    const std::int64_t i = is_second ? item - of.in_size() : item;
    const int width = of.shape.width, height = of.shape.height;
    const std::int64_t line = i / width, row = line / height, n = row / of.shape.in_channels;
    const std::int64_t x = (i - line * width) / 2, y = (line - row * height) / 2;
    const std::int64_t channel = row - n * of.shape.in_channels + of.channels_in_front;
    const float* from = (is_second ? grad_out[1] : grad_out[0]) +
                        ((n * of.shape.out_channels + channel) * (height / 2) + y) * (width / 2);
    (is_second ? grad_in[1] : grad_in[0])[i] = 0.25f * from[x];
  }
  bool operator==(const UnpoolSlots&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(grad_out[0], of.out_size())
        .reads(grad_out[1], of.out_size())
        .writes(grad_in[0], of.in_size())
        .writes(grad_in[1], of.in_size());
  }
};

/// pooled [batch, features] <- mean over the plane of relu(norm(x)). A block some means, of planes
/// that are small at the end of a network.
struct PoolFeatures {
  static constexpr std::string_view name = "pool_features";
  static constexpr int num_threads = 256, threads_a_plane = 32;
  static constexpr int planes_a_block = num_threads / threads_a_plane;
  struct Shared {
    SumOfThreads<threads_a_plane> of_plane[planes_a_block];
  };
  static constexpr int num_phases = 1 + SumOfThreads<threads_a_plane>::num_rounds;
  FeaturePlanes planes;
  NormParameters norm;
  float* pooled = nullptr;

  REVODE_ON_DEVICE std::int64_t num_blocks() const {
    return (num_planes() + planes_a_block - 1) / planes_a_block;
  }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t block, int thread,
                                   Shared& shared) const {
    SumOfThreads<threads_a_plane>& sum = shared.of_plane[thread / threads_a_plane];
    const int of_plane = thread % threads_a_plane;
    const std::int64_t plane = block * planes_a_block + thread / threads_a_plane;
    if (phase == 0) {
      sum.of_thread[of_plane] = plane < num_planes() ? sum_of_thread(plane, of_plane) : 0;
      return;
    }
    sum.add_halves(phase - 1, of_plane);
    if (phase == num_phases - 1 && of_plane == 0 && plane < num_planes())
      pooled[plane] = static_cast<float>(sum.total() / static_cast<double>(planes.plane_size));
  }
  bool operator==(const PoolFeatures&) const = default;
  Accesses accesses() const {
    return norm.read_in(planes.reads(), planes.num_features()).writes(pooled, num_planes());
  }

 private:
  REVODE_ON_DEVICE std::int64_t num_planes() const {
    return std::int64_t{1} * planes.batch * planes.num_features();
  }
  REVODE_ON_DEVICE double sum_of_thread(std::int64_t plane, int thread) const {
    const int f = static_cast<int>(plane % planes.num_features());
    const float* x = planes.plane(plane / planes.num_features(), f);
    const FeatureNorm at = norm.of(f);
    double sum = 0;
    for (std::int64_t p = thread; p < planes.plane_size; p += threads_a_plane)
      sum += relu(at(x[p]));
    return sum;
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
  bool operator==(const FillRows&) const = default;
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
  bool operator==(const AddContributions&) const = default;
  Accesses accesses() const {
    return Accesses().reads(values, num_values).writes(sums, num_values).adds(overflow, 1);
  }
};

/// sums [columns] += the sums over rows of values [num_rows, columns], one contribution an entry. A
/// block a column.
struct AddColumnSums {
  static constexpr std::string_view name = "add_column_sums";
  static constexpr int num_threads = summing_threads;
  using Shared = SumOfThreads<num_threads>;
  static constexpr int num_phases = 1 + Shared::num_rounds;
  int num_rows = 0, columns = 0;
  const float* values = nullptr;
  ExactSum* sums = nullptr;
  int* overflow = nullptr;
  int overflow_code = 0;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return columns; }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t k, int thread, Shared& shared) const {
    if (phase == 0) {
      double sum = 0;
      for (std::int64_t n = thread; n < num_rows; n += num_threads) sum += values[n * columns + k];
      shared.of_thread[thread] = sum;
      return;
    }
    shared.add_halves(phase - 1, thread);
    if (phase != num_phases - 1 || thread != 0) return;
    if (!add_contribution(static_cast<float>(shared.total()), sums + k))
      raise_atomically(overflow, overflow_code);
  }
  bool operator==(const AddColumnSums&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(values, std::size_t{1} * num_rows * columns)
        .writes(sums, columns)
        .adds(overflow, 1);
  }
};

}  // namespace revode::cuda
