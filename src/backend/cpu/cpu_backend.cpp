// The cpu backend: opening, transition and closing image by image on threads, with sums over images
// in a fixed order; segments are cpu_segment's. Knows nothing of instruction sets.
#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "revode/backend/backend.hpp"
#include "revode/core/error.hpp"

#include "backend/cpu/cpu_segment.hpp"
#include "backend/cpu/image_cut.hpp"
#include "backend/cpu/norm_kernels.hpp"
#include "backend/cpu/opening_kernels.hpp"
#include "backend/cpu/peak.hpp"
#include "backend/cpu/pooling_kernels.hpp"
#include "backend/host/host_backend.hpp"

namespace revode {
namespace cpu {
namespace {

template <typename Shape>
std::size_t plane_size(const Shape& shape) {
  return static_cast<std::size_t>(shape.height) * shape.width;
}
template <typename Shape>
int num_features(const Shape& shape) {
  return shape.features.num_features(shape.channels);
}

/// Feature f of image n, taken as one long row.
template <typename Shape>
float* feature(const Shape& shape, const StateView<float>& state, int n, int f) {
  return feature_plane(state, shape.features, shape.channels, plane_size(shape), n, f);
}
template <typename Shape>
Plane long_row(const Shape& shape, const float* data) {
  return {data, 1, static_cast<int>(plane_size(shape)), 0};
}

/// The slot that is no feature map <- 0, for image n.
template <typename Shape>
void clear_other_slot(const Shape& shape, const StateView<float>& state, int n) {
  if (shape.features.joined) return;
  const std::size_t image_size = shape.channels * plane_size(shape);
  std::fill_n(state.slot[1 - shape.features.slot] + n * image_size, image_size, 0.0f);
}

/// Sums over images, ascending: total[f] of parts [batch, features].
std::vector<SumPair> add_images(const std::vector<SumPair>& parts, int features) {
  std::vector<SumPair> total(features);
  for (std::size_t k = 0; k < parts.size(); ++k) total[k % features] += parts[k];
  return total;
}

/// statistics <- from sums of x and x^2 over `count` values, a feature each
void to_statistics(const std::vector<SumPair>& moments, double count, NormStatistics statistics) {
  for (std::size_t f = 0; f < moments.size(); ++f) {
    const double mean = moments[f].first / count;
    statistics.mean[f] = mean;
    statistics.variance[f] = std::max(0.0, moments[f].second / count - mean * mean);
  }
}

/// dshift += sum g, dscale += sum g xhat; returns the two means a feature.
template <typename Gradient>
std::vector<SumPair> norm_gradients(std::vector<SumPair> sums, double count,
                                    const Gradient& gradient, OverflowNote overflow) {
  for (std::size_t f = 0; f < sums.size(); ++f) {
    const auto shift = static_cast<float>(sums[f].first);
    const auto scale = static_cast<float>(sums[f].second);
    const bool shift_fits = add_contributions(&shift, 1, gradient.shift + f);
    const bool scale_fits = add_contributions(&scale, 1, gradient.scale + f);
    if (!shift_fits || !scale_fits) overflow.at(0);
    sums[f] = {sums[f].first / count, sums[f].second / count};
  }
  return sums;
}

template <typename Shape>
double num_values(const Shape& shape) {
  return static_cast<double>(shape.batch) * static_cast<double>(plane_size(shape));
}

class CpuBackend final : public host::HostBackend<float> {
 public:
  explicit CpuBackend(int num_threads) : engine_(std::make_shared<Engine>(num_threads)) {}

  std::string_view name() const override { return "cpu"; }
  std::string description() const override;
  double measure_peak_flops(Precision) override { return cpu::measure_peak_flops(engine_->pool); }
  void set_progress(std::function<void()> progress) override {
    engine_->pool.set_progress(std::move(progress));
  }
  std::unique_ptr<Segment<float>> make_segment(const SegmentShape& shape) override {
    REVODE_CHECK(multiplies_in(shape.precision), "the cpu backend multiplies in fp32, not in {}",
                 to_string(shape.precision));
    return std::make_unique<CpuSegment>(shape, engine_);
  }

  void cut_images(const StoredImages<float>& stored, const std::vector<DrawnImage>& drawn,
                  float* images) override;

  void opening_convolve(const OpeningShape& shape, const float* images,
                        const OpeningWeights<float>& weights, StateView<float> state,
                        NormStatistics statistics) override;
  void opening_normalise(const OpeningShape& shape, const OpeningWeights<float>& weights,
                         NormStatistics statistics, StateView<float> state) override;
  void opening_backward(const OpeningShape& shape, const float* images,
                        const OpeningWeights<float>& weights, NormStatistics statistics,
                        StateView<float> state, StateView<float> adjoint,
                        const OpeningGradient& gradient, OverflowNote overflow) override;

  void transition_forward(const TransitionShape& shape, StateView<float> in,
                          StateView<float> out) override;
  void transition_backward(const TransitionShape& shape, StateView<float> adjoint_out,
                           StateView<float> adjoint_in) override;

  void closing_statistics(const ClosingShape& shape, StateView<float> state,
                          NormStatistics statistics) override;
  void closing_forward(const ClosingShape& shape, StateView<float> state,
                       const ClosingWeights<float>& weights, NormStatistics statistics,
                       float* logits) override;
  void closing_backward(const ClosingShape& shape, StateView<float> state,
                        const ClosingWeights<float>& weights, NormStatistics statistics,
                        const float* grad_logits, StateView<float> adjoint,
                        const ClosingGradient& gradient, OverflowNote overflow) override;

 private:
  /// Scratch of one thread for one image of the opening.
  struct OpeningScratch {
    float* bordered;  ///< the image with its border
    float* sums;      ///< K image, or its gradient, of some features: rows of stride()
  };
  void reserve_opening_scratch(const BorderedImage& image);
  OpeningScratch opening_scratch(const BorderedImage& image, int thread);

  /// Feature planes of image n <- K image; calls body(f, that plane) after each, while it is in the
  /// cache.
  template <typename Body>
  void convolve_image(const OpeningShape& shape, const float* images, const float* kernel, int n,
                      int thread, const StateView<float>& state, Body&& body);

  std::shared_ptr<Engine> engine_;
};

std::string CpuBackend::description() const {
  const InstructionSet set = instruction_set();
  const int threads = engine_->pool.num_threads();
  return fmt::format("cpu ({}, {} lanes), {} thread{}", set.name, set.num_lanes, threads,
                     threads == 1 ? "" : "s");
}

void CpuBackend::cut_images(const StoredImages<float>& stored, const std::vector<DrawnImage>& drawn,
                            float* images) {
  engine_->pool.parallel_for(static_cast<int>(drawn.size()), [&](int n, int) {
    cut_image(stored, drawn[n], images + n * stored.image_size());
  });
}

BorderedImage bordered_image(const OpeningShape& shape) {
  return {shape.in_channels, shape.height, shape.width};
}

/// Features of the opening that are in the works at once: their sums stay in L1.
constexpr int features_at_once = 4;

/// Multiples of 16 floats keep what follows aligned.
std::size_t aligned_size(const BorderedImage& image) {
  return (image.scratch_size() + 15) / 16 * 16;
}

void CpuBackend::reserve_opening_scratch(const BorderedImage& image) {
  engine_->reserve_scratch(aligned_size(image) + features_at_once * image.sums_size());
}

CpuBackend::OpeningScratch CpuBackend::opening_scratch(const BorderedImage& image, int thread) {
  float* bordered = engine_->scratch(thread);
  return {bordered, bordered + aligned_size(image)};
}

template <typename Body>
void CpuBackend::convolve_image(const OpeningShape& shape, const float* images, const float* kernel,
                                int n, int thread, const StateView<float>& state, Body&& body) {
  const BorderedImage image = bordered_image(shape);
  const OpeningScratch scratch = opening_scratch(image, thread);
  const int features = num_features(shape);
  add_border(image, images + n * shape.in_channels * plane_size(shape), scratch.bordered);
  for (int first = 0; first < features; first += features_at_once) {
    const int count = std::min(features_at_once, features - first);
    convolve_bordered(image, scratch.bordered, kernel + std::size_t{9} * first * shape.in_channels,
                      count, scratch.sums);
    for (int k = 0; k < count; ++k) {
      float* to = feature(shape, state, n, first + k);
      copy_plane({scratch.sums + k * image.sums_size(), shape.height, shape.width, image.stride()},
                 to);
      body(first + k, long_row(shape, to));
    }
  }
}

void CpuBackend::opening_convolve(const OpeningShape& shape, const float* images,
                                  const OpeningWeights<float>& weights, StateView<float> state,
                                  NormStatistics statistics) {
  const int features = num_features(shape);
  reserve_opening_scratch(bordered_image(shape));
  std::vector<SumPair> moments(static_cast<std::size_t>(shape.batch) * features);
  engine_->pool.parallel_for(shape.batch, [&](int n, int thread) {
    convolve_image(shape, images, weights.kernel, n, thread, state, [&](int f, const Plane& x) {
      if (statistics.mean != nullptr) moments[n * features + f] = plane_moments(x);
    });
  });
  if (statistics.mean != nullptr)
    to_statistics(add_images(moments, features), num_values(shape), statistics);
}

void CpuBackend::opening_normalise(const OpeningShape& shape, const OpeningWeights<float>& weights,
                                   NormStatistics statistics, StateView<float> state) {
  engine_->pool.parallel_for(shape.batch, [&](int n, int) {
    clear_other_slot(shape, state, n);
    for (int f = 0; f < num_features(shape); ++f) {
      float* x = feature(shape, state, n, f);
      apply_norm_relu(long_row(shape, x), Norm(statistics, f, weights.scale[f], weights.shift[f]),
                      shape.grid_bits, {x, 0});
    }
  });
}

void CpuBackend::opening_backward(const OpeningShape& shape, const float* images,
                                  const OpeningWeights<float>& weights, NormStatistics statistics,
                                  StateView<float> state, StateView<float> adjoint,
                                  const OpeningGradient& gradient, OverflowNote overflow) {
  const int features = num_features(shape);
  const BorderedImage image = bordered_image(shape);
  reserve_opening_scratch(image);
  const auto norm = [&](int f) { return Norm(statistics, f, weights.scale[f], weights.shift[f]); };

  // 1. dshift = sum g, dscale = sum g xhat, g = adjoint where the ReLU is open, x = K image
  std::vector<SumPair> parts(static_cast<std::size_t>(shape.batch) * features);
  engine_->pool.parallel_for(shape.batch, [&](int n, int thread) {
    convolve_image(shape, images, weights.kernel, n, thread, state, [&](int f, const Plane& x) {
      parts[n * features + f] =
          norm_relu_gradient_sums(x, norm(f), long_row(shape, feature(shape, adjoint, n, f)));
    });
  });
  const std::vector<SumPair> means =
      norm_gradients(add_images(parts, features), num_values(shape), gradient, overflow);

  // 2. through the statistics to K image, and on to K; lane by lane
  const Lanes lanes(shape.batch);
  const std::size_t kernel_size = std::size_t{9} * features * shape.in_channels;
  float* sums = engine_->lane_sums(lanes.count * kernel_size);
  const auto rows = [&](int n, int f, const StateView<float>& view) {
    return Plane{feature(shape, view, n, f), shape.height, shape.width,
                 static_cast<std::size_t>(shape.width)};
  };
  engine_->pool.parallel_for(lanes.count, [&](int lane, int thread) {
    float* lane_sums = sums + lane * kernel_size;
    std::fill_n(lane_sums, kernel_size, 0.0f);
    const auto [bordered, grad] = opening_scratch(image, thread);
    std::fill_n(grad, features_at_once * image.sums_size(), 0.0f);  // as it stays between the rows
    for (int n = lanes.first(lane); n < lanes.first(lane + 1); ++n) {
      add_border(image, images + n * shape.in_channels * plane_size(shape), bordered);
      for (int first = 0; first < features; first += features_at_once) {
        const int count = std::min(features_at_once, features - first);
        for (int k = 0; k < count; ++k)
          norm_relu_backward(rows(n, first + k, state), norm(first + k),
                             rows(n, first + k, adjoint), means[first + k],
                             {grad + k * image.sums_size(), image.stride()});
        add_bordered_kernel_gradient(image, bordered, grad, count,
                                     lane_sums + std::size_t{9} * first * shape.in_channels);
      }
    }
  });
  for (int lane = 1; lane < lanes.count; ++lane)
    for (std::size_t k = 0; k < kernel_size; ++k) sums[k] += sums[lane * kernel_size + k];
  if (!add_contributions(sums, kernel_size, gradient.kernel)) overflow.at(0);
}

void CpuBackend::transition_forward(const TransitionShape& shape, StateView<float> in,
                                    StateView<float> out) {
  const std::size_t in_plane = plane_size(shape);
  const std::size_t out_plane = static_cast<std::size_t>(shape.height / 2) * (shape.width / 2);
  const int front = shape.channels_in_front();
  const int behind = shape.out_channels - shape.in_channels - front;
  engine_->pool.parallel_for(shape.batch, [&](int n, int) {
    for (int slot = 0; slot < 2; ++slot) {
      const float* from = in.slot[slot] + n * shape.in_channels * in_plane;
      float* to = out.slot[slot] + n * shape.out_channels * out_plane;
      std::fill_n(to, front * out_plane, 0.0f);
      to += front * out_plane;
      for (int c = 0; c < shape.in_channels; ++c, from += in_plane, to += out_plane)
        pool_plane(from, shape.height, shape.width, shape.grid_bits, to);
      std::fill_n(to, behind * out_plane, 0.0f);
    }
  });
}

void CpuBackend::transition_backward(const TransitionShape& shape, StateView<float> adjoint_out,
                                     StateView<float> adjoint_in) {
  const std::size_t in_plane = plane_size(shape);
  const std::size_t out_plane = static_cast<std::size_t>(shape.height / 2) * (shape.width / 2);
  engine_->pool.parallel_for(shape.batch, [&](int n, int) {
    for (int slot = 0; slot < 2; ++slot) {
      const float* from =
          adjoint_out.slot[slot] + (n * shape.out_channels + shape.channels_in_front()) * out_plane;
      float* to = adjoint_in.slot[slot] + n * shape.in_channels * in_plane;
      for (int c = 0; c < shape.in_channels; ++c, from += out_plane, to += in_plane)
        unpool_plane(from, shape.height, shape.width, to);
    }
  });
}

void CpuBackend::closing_statistics(const ClosingShape& shape, StateView<float> state,
                                    NormStatistics statistics) {
  const int features = num_features(shape);
  std::vector<SumPair> moments(static_cast<std::size_t>(shape.batch) * features);
  engine_->pool.parallel_for(shape.batch, [&](int n, int) {
    for (int f = 0; f < features; ++f)
      moments[n * features + f] = plane_moments(long_row(shape, feature(shape, state, n, f)));
  });
  to_statistics(add_images(moments, features), num_values(shape), statistics);
}

/// Mean over the plane of relu(norm(feature f of image n)).
float pooled_feature(const ClosingShape& shape, const StateView<float>& state, const Norm& norm,
                     int n, int f) {
  const double sum = sum_norm_relu(long_row(shape, feature(shape, state, n, f)), norm);
  return static_cast<float>(sum / static_cast<double>(plane_size(shape)));
}

void CpuBackend::closing_forward(const ClosingShape& shape, StateView<float> state,
                                 const ClosingWeights<float>& weights, NormStatistics statistics,
                                 float* logits) {
  const int features = num_features(shape);
  engine_->pool.parallel_for(shape.batch, [&](int n, int) {
    float* logit = logits + n * shape.num_classes;
    std::copy_n(weights.bias, shape.num_classes, logit);
    for (int f = 0; f < features; ++f) {
      const Norm norm(statistics, f, weights.scale[f], weights.shift[f]);
      const float pooled = pooled_feature(shape, state, norm, n, f);
      for (int k = 0; k < shape.num_classes; ++k)
        logit[k] += weights.weight[k * features + f] * pooled;
    }
  });
}

void CpuBackend::closing_backward(const ClosingShape& shape, StateView<float> state,
                                  const ClosingWeights<float>& weights, NormStatistics statistics,
                                  const float* grad_logits, StateView<float> adjoint,
                                  const ClosingGradient& gradient, OverflowNote overflow) {
  const int features = num_features(shape), classes = shape.num_classes;
  const auto norm = [&](int f) { return Norm(statistics, f, weights.scale[f], weights.shift[f]); };

  // 1. logits = W pooled + b: each pixel of feature f gets (W^T grad_logits)_f / plane size
  std::vector<float> pooled(static_cast<std::size_t>(shape.batch) * features);
  std::vector<SumPair> parts(pooled.size());
  engine_->pool.parallel_for(shape.batch, [&](int n, int) {
    clear_other_slot(shape, adjoint, n);
    for (int f = 0; f < features; ++f) {
      float sum = 0;
      for (int k = 0; k < classes; ++k)
        sum += grad_logits[n * classes + k] * weights.weight[k * features + f];
      float* grad = feature(shape, adjoint, n, f);
      std::fill_n(grad, plane_size(shape), sum / static_cast<float>(plane_size(shape)));
      pooled[n * features + f] = pooled_feature(shape, state, norm(f), n, f);
      parts[n * features + f] = norm_relu_gradient_sums(
          long_row(shape, feature(shape, state, n, f)), norm(f), long_row(shape, grad));
    }
  });
  std::vector<float> grad_weight(static_cast<std::size_t>(classes) * features);
  std::vector<float> grad_bias(classes);
  engine_->pool.parallel_for(classes, [&](int k, int) {
    for (int n = 0; n < shape.batch; ++n) {
      const float grad = grad_logits[n * classes + k];
      grad_bias[k] += grad;
      for (int f = 0; f < features; ++f)
        grad_weight[k * features + f] += grad * pooled[n * features + f];
    }
  });
  const bool weight_fits =
      add_contributions(grad_weight.data(), grad_weight.size(), gradient.weight);
  const bool bias_fits = add_contributions(grad_bias.data(), grad_bias.size(), gradient.bias);
  if (!weight_fits || !bias_fits) overflow.at(0);

  // 2. through ReLU and batch norm
  const std::vector<SumPair> means =
      norm_gradients(add_images(parts, features), num_values(shape), gradient, overflow);
  engine_->pool.parallel_for(shape.batch, [&](int n, int) {
    for (int f = 0; f < features; ++f) {
      float* grad = feature(shape, adjoint, n, f);
      norm_relu_backward(long_row(shape, feature(shape, state, n, f)), norm(f),
                         long_row(shape, grad), means[f], {grad, 0});
    }
  });
}

}  // namespace
}  // namespace cpu

std::unique_ptr<Backend<float>> make_cpu_backend(int num_threads) {
  return std::make_unique<cpu::CpuBackend>(num_threads);
}

}  // namespace revode
