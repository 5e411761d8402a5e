// Batch norm at both ends of the network: statistics, y = relu(norm(x)), and its adjoint.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>

#include "revode/backend/ends.hpp"

#include "backend/cuda/kernel.hpp"

namespace revode::cuda {

/// The planes of the feature map in a state.
struct FeaturePlanes {
  int batch = 0;
  int channels = 0;  ///< of one slot
  int plane_size = 0;
  FeatureMap features;
  float* slot[2] = {nullptr, nullptr};

  REVODE_ON_DEVICE int num_features() const { return features.joined ? 2 * channels : channels; }
  REVODE_ON_DEVICE float* plane(std::int64_t n, int f) const {
    const bool is_second = features.joined ? f >= channels : features.slot == 1;
    const int channel = features.joined && is_second ? f - channels : f;
    // Not indexed: on a device the pointers would go to local memory.
    return (is_second ? slot[1] : slot[0]) + (n * channels + channel) * plane_size;
  }
  /// Of a feature, [batch, plane].
  REVODE_ON_DEVICE int num_values() const { return batch * plane_size; }
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
  bool operator==(const FeaturePlanes&) const = default;
};

/// A value of a feature, one of [batch, plane].
struct FeatureValue {
  int image = 0;
  std::int64_t offset = 0;  ///< from the feature's plane of the first image
};

/// The values of each feature cut into parts, a block of threads each: how depends on the shape
/// alone, so that sums of parts do too.
struct FeatureParts {
  static constexpr int num_threads = summing_threads;
  static constexpr int most_parts = 64;  ///< whose sums one block adds up
  /// Loads of a thread that are under way together.
  static constexpr int values_at_once = 4;
  /// With two rounds of these a block is worth it.
  static constexpr int wanted_values = 2 * values_at_once * num_threads;

  REVODE_ON_DEVICE explicit FeatureParts(const FeaturePlanes& planes)
      : num_features(planes.num_features()),
        num_values(planes.num_values()),
        plane_size(planes.plane_size),
        behind_plane(std::int64_t{1} * (planes.channels - 1) * planes.plane_size) {
    const int parts = num_values / wanted_values;
    num_parts = parts < 1 ? 1 : parts > most_parts ? most_parts : parts;
    values_a_part = (num_values + num_parts - 1) / num_parts;
  }

  REVODE_ON_DEVICE int num_blocks() const { return num_features * num_parts; }
  REVODE_ON_DEVICE int feature(std::int64_t block) const {
    return static_cast<int>(block) / num_parts;
  }
  REVODE_ON_DEVICE FeatureValue value(int i) const {
    // Unsigned: on a device these take half as long.
    const auto image =
        static_cast<int>(static_cast<unsigned>(i) / static_cast<unsigned>(plane_size));
    return {image, i + image * behind_plane};
  }

  /// use(load(value), value) for each FeatureValue of a thread, in order; of several the loads come
  /// first.
  template <typename Load, typename Use>
  REVODE_ON_DEVICE void for_each(std::int64_t block, int thread, Load&& load, Use&& use) const {
    const int begin = static_cast<int>(block) % num_parts * values_a_part;
    const int end = begin + values_a_part < num_values ? begin + values_a_part : num_values;
    for (int first = begin + thread; first < end; first += values_at_once * num_threads) {
      FeatureValue values[values_at_once];
      decltype(load(values[0])) loaded[values_at_once] = {};
      for (int k = 0; k < values_at_once; ++k) {
        const int i = first + k * num_threads;
        values[k] = value(i);
        if (i < end) loaded[k] = load(values[k]);
      }
      for (int k = 0; k < values_at_once; ++k)
        if (first + k * num_threads < end) use(loaded[k], values[k]);
    }
  }

  int num_features, num_values, plane_size;
  int num_parts, values_a_part;
  std::int64_t behind_plane;  ///< values between a feature's plane and that of the next image
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
  /// dL/dy of y = relu(norm(x)) where y > 0, else 0.
  REVODE_ON_DEVICE float masked(float x, float adjoint) const {
    return (*this)(x) > 0 ? adjoint : 0;
  }

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
  bool operator==(const NormParameters&) const = default;
};

/// Two sums over the values of a feature, or over a part of them.
struct TwoSums {
  double first = 0, second = 0;
};

/// The same while the threads of a block add them up.
template <int num_threads>
struct TwoSumsOfThreads {
  static constexpr int num_rounds = SumOfThreads<num_threads>::num_rounds;
  SumOfThreads<num_threads> first, second;

  REVODE_ON_DEVICE void set(int thread, const TwoSums& sums) {
    first.of_thread[thread] = sums.first;
    second.of_thread[thread] = sums.second;
  }
  REVODE_ON_DEVICE void add_halves(int round, int thread) {
    first.add_halves(round, thread);
    second.add_halves(round, thread);
  }
  REVODE_ON_DEVICE TwoSums total() const { return {first.total(), second.total()}; }
};

/// Those of all parts of a feature, by as many threads.
using TwoSumsOfParts = TwoSumsOfThreads<FeatureParts::most_parts>;

/// That of a thread's part, if there is one; parts [features, parts].
REVODE_ON_DEVICE inline TwoSums part_of_thread(const TwoSums* parts, int num_parts,
                                               std::int64_t feature, int thread) {
  return thread < num_parts ? parts[feature * num_parts + thread] : TwoSums();
}

/// parts [features, parts] <- sums of x and of x^2, in double. A block a part.
struct SumStatistics {
  static constexpr std::string_view name = "sum_statistics";
  static constexpr int num_threads = FeatureParts::num_threads;
  using Shared = TwoSumsOfThreads<num_threads>;
  static constexpr int num_phases = 1 + Shared::num_rounds;
  FeaturePlanes planes;
  TwoSums* parts = nullptr;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return FeatureParts(planes).num_blocks(); }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t block, int thread,
                                   Shared& shared) const {
    if (phase == 0) {
      const FeatureParts cut(planes);
      const float* const x = planes.plane(0, cut.feature(block));
      TwoSums sums;
      cut.for_each(
          block, thread, [&](const FeatureValue& value) { return x[value.offset]; },
          [&](double of_x, const FeatureValue&) {
            sums.first += of_x;
            sums.second += of_x * of_x;
          });
      shared.set(thread, sums);
      return;
    }
    shared.add_halves(phase - 1, thread);
    if (phase == num_phases - 1 && thread == 0) parts[block] = shared.total();
  }
  bool operator==(const SumStatistics&) const = default;
  Accesses accesses() const { return planes.reads().writes(parts, num_blocks()); }
};

/// Mean and biased variance of every feature over batch and plane, of such sums. A block a feature.
struct FinishStatistics {
  static constexpr std::string_view name = "finish_statistics";
  static constexpr int num_threads = FeatureParts::most_parts;
  using Shared = TwoSumsOfParts;
  static constexpr int num_phases = 1 + Shared::num_rounds;
  FeaturePlanes planes;
  const TwoSums* parts = nullptr;
  NormStatistics statistics;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return planes.num_features(); }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t f, int thread, Shared& shared) const {
    if (phase == 0) {
      shared.set(thread, part_of_thread(parts, FeatureParts(planes).num_parts, f, thread));
      return;
    }
    shared.add_halves(phase - 1, thread);
    if (phase != num_phases - 1 || thread != 0) return;
    const TwoSums sums = shared.total();
    const auto count = static_cast<double>(planes.num_values());
    const double mean = sums.first / count;
    const double variance = sums.second / count - mean * mean;
    statistics.mean[f] = mean;
    statistics.variance[f] = variance > 0 ? variance : variance <= 0 ? 0 : variance;
  }
  bool operator==(const FinishStatistics&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(parts, FeatureParts(planes).num_blocks())
        .writes(statistics.mean, planes.num_features())
        .writes(statistics.variance, planes.num_features());
  }
};

/// x <- round(relu(norm(x))) in the planes of the features. A block a part.
struct NormaliseFeatures {
  static constexpr std::string_view name = "normalise_features";
  static constexpr int num_threads = FeatureParts::num_threads, num_phases = 1;
  struct Shared {};
  FeaturePlanes planes;
  NormParameters norm;
  float unit = 0;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return FeatureParts(planes).num_blocks(); }
  REVODE_ON_DEVICE void operator()(int, std::int64_t block, int thread, Shared&) const {
    const FeatureParts cut(planes);
    const int f = cut.feature(block);
    const FeatureNorm at = norm.of(f);
    float* const x = planes.plane(0, f);
    cut.for_each(
        block, thread, [&](const FeatureValue& value) { return x[value.offset]; },
        [&](float of_x, const FeatureValue& value) {
          x[value.offset] = round_to_grid(relu(at(of_x)), unit);
        });
  }
  bool operator==(const NormaliseFeatures&) const = default;
  Accesses accesses() const { return norm.read_in(planes.writes(), planes.num_features()); }
};

/// dL/dy of y = relu(norm(x)), in planes that lie as those of x do, or where `of_planes` is there,
/// one number for each of them, [batch, features].
struct FeatureAdjoint {
  FeaturePlanes planes;
  const float* of_planes = nullptr;

  REVODE_ON_DEVICE float at(int f, const FeatureValue& value) const {
    return of_planes != nullptr
               ? of_planes[std::int64_t{1} * value.image * planes.num_features() + f]
               : planes.plane(0, f)[value.offset];
  }
  Accesses read_in(Accesses&& list) const {
    if (of_planes == nullptr) return std::move(list).and_also(planes.reads());
    return std::move(list).reads(of_planes, std::size_t{1} * planes.batch * planes.num_features());
  }
  bool operator==(const FeatureAdjoint&) const = default;
};

/// A value and its dL/dy.
struct ValueAndAdjoint {
  float x = 0, adjoint = 0;
};

/// First pass of the adjoint of y = relu(norm(x)): with g = dL/dy where y > 0, else 0,
///   parts [features, parts] <- sums of g and of g xhat.  A block a part.
struct SumNormBackward {
  static constexpr std::string_view name = "sum_norm_backward";
  static constexpr int num_threads = FeatureParts::num_threads;
  using Shared = TwoSumsOfThreads<num_threads>;
  static constexpr int num_phases = 1 + Shared::num_rounds;
  FeaturePlanes x;
  FeatureAdjoint adjoint;
  NormParameters norm;
  TwoSums* parts = nullptr;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return FeatureParts(x).num_blocks(); }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t block, int thread,
                                   Shared& shared) const {
    if (phase == 0) {
      const FeatureParts cut(x);
      const int f = cut.feature(block);
      const FeatureNorm at = norm.of(f);
      const float* const of_feature = x.plane(0, f);
      TwoSums sums;
      cut.for_each(
          block, thread,
          [&](const FeatureValue& value) {
            return ValueAndAdjoint{of_feature[value.offset], adjoint.at(f, value)};
          },
          [&](const ValueAndAdjoint& of, const FeatureValue&) {
            const double g = at.masked(of.x, of.adjoint);
            sums.first += g;
            sums.second += g * at.normalised(of.x);
          });
      shared.set(thread, sums);
      return;
    }
    shared.add_halves(phase - 1, thread);
    if (phase == num_phases - 1 && thread == 0) parts[block] = shared.total();
  }
  bool operator==(const SumNormBackward&) const = default;
  Accesses accesses() const {
    return adjoint.read_in(norm.read_in(x.reads(), x.num_features())).writes(parts, num_blocks());
  }
};

/// shift += sum g;  scale += sum g xhat, of such sums, one contribution each;
/// means [features, 2] <- of g and of g xhat, over batch and plane. A block a feature.
struct FinishNormBackward {
  static constexpr std::string_view name = "finish_norm_backward";
  static constexpr int num_threads = FeatureParts::most_parts;
  using Shared = TwoSumsOfParts;
  static constexpr int num_phases = 1 + Shared::num_rounds;
  FeaturePlanes x;
  const TwoSums* parts = nullptr;
  ExactSum* grad_scale = nullptr;
  ExactSum* grad_shift = nullptr;
  float* means = nullptr;
  int* overflow = nullptr;
  int overflow_code = 0;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return x.num_features(); }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t f, int thread, Shared& shared) const {
    if (phase == 0) {
      shared.set(thread, part_of_thread(parts, FeatureParts(x).num_parts, f, thread));
      return;
    }
    shared.add_halves(phase - 1, thread);
    if (phase != num_phases - 1 || thread != 0) return;
    const TwoSums sums = shared.total();
    const bool shift_fits = add_contribution(static_cast<float>(sums.first), grad_shift + f);
    const bool scale_fits = add_contribution(static_cast<float>(sums.second), grad_scale + f);
    if (!shift_fits || !scale_fits) raise_atomically(overflow, overflow_code);
    const auto count = static_cast<double>(x.num_values());
    means[2 * f] = static_cast<float>(sums.first / count);
    means[2 * f + 1] = static_cast<float>(sums.second / count);
  }
  bool operator==(const FinishNormBackward&) const = default;
  Accesses accesses() const {
    const int features = x.num_features();
    return Accesses()
        .reads(parts, FeatureParts(x).num_blocks())
        .writes(grad_scale, features)
        .writes(grad_shift, features)
        .writes(means, 2 * features)
        .adds(overflow, 1);
  }
};

/// Second pass, of a value:
///   dL/dx = scale * inverse_deviation * (g - mean(g) - xhat * mean(g xhat))
struct NormAdjoint {
  REVODE_ON_DEVICE NormAdjoint(const FeatureNorm& norm_in, const float* means, int f)
      : norm(norm_in), mean(means[2 * f]), mean_normalised(means[2 * f + 1]) {}
  REVODE_ON_DEVICE float operator()(const ValueAndAdjoint& of) const {
    return norm.scale * norm.inverse_deviation *
           (norm.masked(of.x, of.adjoint) - mean - norm.normalised(of.x) * mean_normalised);
  }

  FeatureNorm norm;
  float mean, mean_normalised;
};

/// grad <- dL/dx, in planes that lie as those of x do. A block a part.
struct NormBackward {
  static constexpr std::string_view name = "norm_backward";
  static constexpr int num_threads = FeatureParts::num_threads, num_phases = 1;
  struct Shared {};
  FeaturePlanes x;
  FeatureAdjoint adjoint;
  NormParameters norm;
  const float* means = nullptr;
  FeaturePlanes grad;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return FeatureParts(x).num_blocks(); }
  REVODE_ON_DEVICE void operator()(int, std::int64_t block, int thread, Shared&) const {
    const FeatureParts cut(x);
    const int f = cut.feature(block);
    const NormAdjoint back(norm.of(f), means, f);
    const float* const of_feature = x.plane(0, f);
    float* const to = grad.plane(0, f);
    cut.for_each(
        block, thread,
        [&](const FeatureValue& value) {
          return ValueAndAdjoint{of_feature[value.offset], adjoint.at(f, value)};
        },
        [&](const ValueAndAdjoint& of, const FeatureValue& value) { to[value.offset] = back(of); });
  }
  bool operator==(const NormBackward&) const = default;
  Accesses accesses() const {
    return adjoint.read_in(norm.read_in(x.reads(), x.num_features()))
        .and_also(grad.writes())
        .reads(means, 2 * x.num_features());
  }
};

}  // namespace revode::cuda
