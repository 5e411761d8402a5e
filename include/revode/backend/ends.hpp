// The layers beside the couplings: opening, transitions and closing; their shapes, weights and
// gradients.
#pragma once

#include <cstddef>
#include <cstdint>

#include "revode/backend/exact_sum.hpp"
#include "revode/backend/segment.hpp"

namespace revode {

/// Which planes of the state are the feature map at the two ends of the network: both slots joined
/// [P; Q], or one of them.
struct FeatureMap {
  bool joined = true;
  int slot = 1;  ///< where not joined

  int num_features(int channels) const { return joined ? 2 * channels : channels; }
  bool operator==(const FeatureMap&) const = default;
};

/// The plane [height, width] of image n, feature f.
template <typename Real>
Real* feature_plane(const StateView<Real>& state, const FeatureMap& map, int channels,
                    std::size_t plane_size, int n, int f) {
  const int slot = map.joined ? f / channels : map.slot;
  return state.slot[slot] + (static_cast<std::size_t>(n) * channels + f % channels) * plane_size;
}

/// Means and biased variances, a feature each: of one micro-batch while training, running averages
/// in evaluation.
struct NormStatistics {
  double* mean = nullptr;
  double* variance = nullptr;
  bool operator==(const NormStatistics&) const = default;
};

/// Batch norm  y = scale * (x - mean) / sqrt(variance + epsilon) + shift,  epsilon as in the
/// paper's code's successors.
inline constexpr double norm_epsilon = 1e-5;

/// Opening: features = relu(norm(K images)), K [width1, in_channels, 3, 3] without bias, rounded
/// once to the grid.
struct OpeningShape {
  int batch = 0;
  int in_channels = 0;
  int height = 0;
  int width = 0;
  int channels = 0;  ///< of one slot
  FeatureMap features;
  int grid_bits = 0;
};

template <typename Real>
struct OpeningWeights {
  const Real* kernel = nullptr;  ///< [features, in_channels, 3, 3]
  const Real* scale = nullptr;   ///< [features]
  const Real* shift = nullptr;   ///< [features]
};

struct OpeningGradient {  ///< same shapes; +=, one contribution an entry
  ExactSum* kernel = nullptr;
  ExactSum* scale = nullptr;
  ExactSum* shift = nullptr;
};

/// Transition: 2x2 average pooling of both slots, then zero channels in front and behind (an odd
/// one behind), rounded once to the grid. in [batch, in_channels, height, width] -> out [batch,
/// out_channels, height/2, width/2], both slots.
struct TransitionShape {
  int batch = 0;
  int in_channels = 0;
  int out_channels = 0;
  int height = 0;  ///< of the input, even
  int width = 0;   ///< of the input, even
  int grid_bits = 0;

  int channels_in_front() const { return (out_channels - in_channels) / 2; }
  bool operator==(const TransitionShape&) const = default;
};

/// Closing: logits = W mean_over_plane(relu(norm(features))) + b, W [classes, features].
struct ClosingShape {
  int batch = 0;
  int channels = 0;  ///< of one slot
  int height = 0;
  int width = 0;
  FeatureMap features;
  int num_classes = 0;
};

template <typename Real>
struct ClosingWeights {
  const Real* scale = nullptr;   ///< [features]
  const Real* shift = nullptr;   ///< [features]
  const Real* weight = nullptr;  ///< [classes, features]
  const Real* bias = nullptr;    ///< [classes]
};

struct ClosingGradient {  ///< same shapes; +=, one contribution an entry
  ExactSum* scale = nullptr;
  ExactSum* shift = nullptr;
  ExactSum* weight = nullptr;
  ExactSum* bias = nullptr;
};

/// Loss: softmax cross-entropy of logits [batch, classes] against labels [batch].
struct LossShape {
  int batch = 0;
  int num_classes = 0;
  bool operator==(const LossShape&) const = default;
};

/// Over the samples of a micro-batch.
struct LossSums {
  double loss = 0;
  std::int64_t num_correct = 0;
};

}  // namespace revode
