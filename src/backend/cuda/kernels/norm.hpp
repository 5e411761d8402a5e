// Batch norm at both ends of the network: statistics, y = relu(norm(x)), and its adjoint.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>

#include "revode/backend/ends.hpp"

#include "backend/cuda/kernel.hpp"

namespace revode::cuda {

/// The planes of the feature map in a state, or in one array [batch, features, height, width].
struct FeaturePlanes {
  int batch = 0;
  int channels = 0;  ///< of one slot
  std::int64_t plane_size = 0;
  FeatureMap features;
  float* slot[2] = {nullptr, nullptr};

  REVODE_ON_DEVICE int num_features() const { return features.joined ? 2 * channels : channels; }
  REVODE_ON_DEVICE std::int64_t size() const {
    return std::int64_t{1} * batch * num_features() * plane_size;
  }
  REVODE_ON_DEVICE float* plane(std::int64_t n, int f) const {
    const int which = features.joined ? f / channels : features.slot;
    // Not indexed: on a device the pointers would go to local memory.
    return (which == 0 ? slot[0] : slot[1]) + (n * channels + f % channels) * plane_size;
  }
  /// Of the features in order: item i of [batch, features, plane].
  REVODE_ON_DEVICE float& at(std::int64_t i) const {
    const std::int64_t row = i / plane_size;
    return plane(row / num_features(), static_cast<int>(row % num_features()))[i % plane_size];
  }
  Accesses reads() const {
    Accesses list;
    for (int which = 0; which < 2; ++which)
      if (features.joined || which == features.slot)
        list = std::move(list).reads(slot[which], std::int64_t{1} * batch * channels * plane_size);
    return list;
  }
  Accesses writes() const {
    Accesses list;
    for (int which = 0; which < 2; ++which)
      if (features.joined || which == features.slot)
        list = std::move(list).writes(slot[which], std::int64_t{1} * batch * channels * plane_size);
    return list;
  }
};

/// One feature of a batch norm: xhat = (x - mean) * inverse_deviation, y = scale * xhat + shift.
struct FeatureNorm {
  REVODE_ON_DEVICE FeatureNorm(NormStatistics statistics, int f, float scale_in, float shift_in)
      : mean(static_cast<float>(statistics.mean[f])),
        inverse_deviation(static_cast<float>(1 / sqrt(statistics.variance[f] + norm_epsilon))),
        scale(scale_in),
        shift(shift_in) {}
  REVODE_ON_DEVICE float normalised(float x) const { return (x - mean) * inverse_deviation; }
  REVODE_ON_DEVICE float operator()(float x) const { return scale * normalised(x) + shift; }

  float mean, inverse_deviation, scale, shift;
};

/// What a batch norm is made of; see NormStatistics.
struct NormParameters {
  NormStatistics statistics;
  const float* scale = nullptr;
  const float* shift = nullptr;

  REVODE_ON_DEVICE FeatureNorm of(int f) const {
    return FeatureNorm(statistics, f, scale[f], shift[f]);
  }
  Accesses read_in(Accesses&& list, int num_features) const {
    return std::move(list)
        .reads(statistics.mean, num_features)
        .reads(statistics.variance, num_features)
        .reads(scale, num_features)
        .reads(shift, num_features);
  }
};

/// Mean and biased variance of every feature over batch and plane, in double. A block a feature.
struct ComputeStatistics {
  static constexpr std::string_view name = "compute_statistics";
  static constexpr int num_threads = summing_threads, num_phases = 2;
  struct Shared {
    PartialSums sum, sum_of_squares;
  };
  FeaturePlanes planes;
  NormStatistics statistics;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return planes.num_features(); }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t feature, int thread,
                                   Shared& shared) const {
    const int f = static_cast<int>(feature);
    const std::int64_t count = planes.batch * planes.plane_size;
    if (phase == 0) {
      double sum = 0, sum_of_squares = 0;
      for (std::int64_t i = thread; i < count; i += num_threads) {
        const double x = planes.plane(i / planes.plane_size, f)[i % planes.plane_size];
        sum += x;
        sum_of_squares += x * x;
      }
      shared.sum.of_thread[thread] = sum;
      shared.sum_of_squares.of_thread[thread] = sum_of_squares;
    } else if (thread == 0) {
      const double mean = shared.sum.total() / static_cast<double>(count);
      const double variance =
          shared.sum_of_squares.total() / static_cast<double>(count) - mean * mean;
      statistics.mean[f] = mean;
      statistics.variance[f] = variance > 0 ? variance : variance <= 0 ? 0 : variance;
    }
  }
  Accesses accesses() const {
    return planes.reads()
        .writes(statistics.mean, planes.num_features())
        .writes(statistics.variance, planes.num_features());
  }
};

/// x <- round(relu(norm(x))) in the planes of the features.
struct NormaliseFeatures {
  static constexpr std::string_view name = "normalise_features";
  FeaturePlanes planes;
  NormParameters norm;
  float unit = 0;

  REVODE_ON_DEVICE std::int64_t size() const { return planes.size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const int f = static_cast<int>(i / planes.plane_size % planes.num_features());
    float& x = planes.at(i);
    x = round_to_grid(relu(norm.of(f)(x)), unit);
  }
  Accesses accesses() const { return norm.read_in(planes.writes(), planes.num_features()); }
};

/// First pass of the adjoint of y = relu(norm(x)), for a feature a block:
///   grad <- dL/dy where y > 0, else 0;  shift += sum grad;  scale += sum grad xhat
///   means [features, 2] <- of grad and of grad xhat, over batch and plane
struct NormBackwardSums {
  static constexpr std::string_view name = "norm_backward_sums";
  static constexpr int num_threads = summing_threads, num_phases = 2;
  struct Shared {
    PartialSums sum, sum_normalised;
  };
  FeaturePlanes x, grad;
  NormParameters norm;
  ExactSum* grad_scale = nullptr;
  ExactSum* grad_shift = nullptr;
  float* means = nullptr;
  int* overflow = nullptr;
  int overflow_code = 0;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return x.num_features(); }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t feature, int thread,
                                   Shared& shared) const {
    const int f = static_cast<int>(feature);
    const std::int64_t count = x.batch * x.plane_size;
    if (phase == 0) {
      const FeatureNorm at = norm.of(f);
      double sum = 0, sum_normalised = 0;
      for (std::int64_t i = thread; i < count; i += num_threads) {
        const std::int64_t n = i / x.plane_size, p = i % x.plane_size;
        const float value = x.plane(n, f)[p];
        float& g = grad.plane(n, f)[p];
        if (!(at(value) > 0)) g = 0;
        sum += g;
        sum_normalised += static_cast<double>(g) * at.normalised(value);
      }
      shared.sum.of_thread[thread] = sum;
      shared.sum_normalised.of_thread[thread] = sum_normalised;
    } else if (thread == 0) {
      const double sum = shared.sum.total(), sum_normalised = shared.sum_normalised.total();
      const bool shift_fits = add_contribution(static_cast<float>(sum), grad_shift + f);
      const bool scale_fits = add_contribution(static_cast<float>(sum_normalised), grad_scale + f);
      if (!shift_fits || !scale_fits) raise_atomically(overflow, overflow_code);
      means[2 * f] = static_cast<float>(sum / static_cast<double>(count));
      means[2 * f + 1] = static_cast<float>(sum_normalised / static_cast<double>(count));
    }
  }
  Accesses accesses() const {
    const int features = x.num_features();
    return norm.read_in(x.reads(), features)
        .and_also(grad.writes())
        .writes(grad_scale, features)
        .writes(grad_shift, features)
        .writes(means, 2 * features)
        .adds(overflow, 1);
  }
};

/// Second pass: grad <- scale * inverse_deviation * (grad - mean(grad) - xhat * mean(grad xhat))
struct NormBackward {
  static constexpr std::string_view name = "norm_backward";
  FeaturePlanes x, grad;
  NormParameters norm;
  const float* means = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return x.size(); }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const int f = static_cast<int>(i / x.plane_size % x.num_features());
    const FeatureNorm at = norm.of(f);
    float& g = grad.at(i);
    g = at.scale * at.inverse_deviation *
        (g - means[2 * f] - at.normalised(x.at(i)) * means[2 * f + 1]);
  }
  Accesses accesses() const {
    return norm.read_in(x.reads(), x.num_features())
        .and_also(grad.writes())
        .reads(means, 2 * x.num_features());
  }
};

}  // namespace revode::cuda
