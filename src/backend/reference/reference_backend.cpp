// Opening, transition and closing by plain loops, straight from the formulas. Knows nothing of
// threads or speed.
#include "backend/reference/reference_backend.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <vector>

#include "backend/host/host_backend.hpp"

namespace revode {
namespace {

/// Sums over batch and plane of x and x^2 a feature, in double, images ascending -> mean and biased
/// variance.
template <typename Function>
void compute_statistics(int num_features, int batch, std::size_t plane_size, Function&& plane,
                        NormStatistics result) {
  const double count = static_cast<double>(batch) * static_cast<double>(plane_size);
  for (int f = 0; f < num_features; ++f) {
    double sum = 0, sum_of_squares = 0;
    for (int n = 0; n < batch; ++n) {
      const auto* x = plane(n, f);
      for (std::size_t p = 0; p < plane_size; ++p) {
        sum += x[p];
        sum_of_squares += static_cast<double>(x[p]) * x[p];
      }
    }
    result.mean[f] = sum / count;
    result.variance[f] = std::max(0.0, sum_of_squares / count - result.mean[f] * result.mean[f]);
  }
}

/// One feature of a batch norm: xhat = (x - mean) * inverse_deviation, y = scale * xhat + shift.
template <typename Real>
struct Norm {
  Norm(NormStatistics statistics, int f, Real scale_in, Real shift_in)
      : mean(static_cast<Real>(statistics.mean[f])),
        inverse_deviation(static_cast<Real>(1 / std::sqrt(statistics.variance[f] + norm_epsilon))),
        scale(scale_in),
        shift(shift_in) {}
  Real normalised(Real x) const { return (x - mean) * inverse_deviation; }
  Real operator()(Real x) const { return scale * normalised(x) + shift; }

  Real mean, inverse_deviation, scale, shift;
};

/// Adjoint of relu(norm(x)) over a whole batch for one feature, statistics included:
///   g = dL/dy where y > 0;  dshift = sum g;  dscale = sum g xhat
///   dL/dx = scale * inverse_deviation * (g - mean(g) - xhat * mean(g xhat))
/// x(n) and grad(n) give planes; grad holds dL/dy and receives dL/dx. grad_scale, grad_shift: +=
/// one contribution; false where it is none.
template <typename Real, typename X, typename Grad>
bool norm_relu_backward(const Norm<Real>& norm, int batch, std::size_t plane_size, X&& x,
                        Grad&& grad, ExactSum& grad_scale, ExactSum& grad_shift) {
  double sum = 0, sum_normalised = 0;
  for (int n = 0; n < batch; ++n) {
    for (std::size_t p = 0; p < plane_size; ++p) {
      Real& g = grad(n)[p];
      if (!(norm(x(n)[p]) > 0)) g = 0;
      sum += g;
      sum_normalised += static_cast<double>(g) * norm.normalised(x(n)[p]);
    }
  }
  const auto shift = static_cast<Real>(sum), scale = static_cast<Real>(sum_normalised);
  const bool shift_fits = add_contributions(&shift, 1, &grad_shift);
  const bool scale_fits = add_contributions(&scale, 1, &grad_scale);
  const double count = static_cast<double>(batch) * static_cast<double>(plane_size);
  const auto mean = static_cast<Real>(sum / count);
  const auto mean_normalised = static_cast<Real>(sum_normalised / count);
  for (int n = 0; n < batch; ++n) {
    for (std::size_t p = 0; p < plane_size; ++p) {
      Real& g = grad(n)[p];
      g = norm.scale * norm.inverse_deviation *
          (g - mean - norm.normalised(x(n)[p]) * mean_normalised);
    }
  }
  return shift_fits && scale_fits;
}

/// Operations a second of plain multiply-adds, several chains side by side.
template <typename Real>
double plain_multiply_adds() {
  using Clock = std::chrono::steady_clock;
  constexpr int num_chains = 16, num_rounds = 1000;
  std::array<Real, num_chains> chains{};
  std::int64_t operations = 0;
  const auto start = Clock::now();
  double seconds = 0;
  while (seconds < 0.02) {
    for (int round = 0; round < num_rounds; ++round)
      for (Real& chain : chains) chain = chain * Real{0.5} + Real{1};
    operations += std::int64_t{2} * num_chains * num_rounds;
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
  }
  // The chains end at 2; this keeps them from being left out.
  return static_cast<double>(operations) / seconds * (chains[0] > 0 ? 1 : 0);
}

template <typename Real>
class ReferenceBackend final : public host::HostBackend<Real> {
 public:
  std::string_view name() const override { return "reference"; }
  bool multiplies_in(Precision) const override { return true; }
  std::string description() const override { return "reference (plain loops), 1 thread"; }
  double measure_peak_flops(Precision) override { return plain_multiply_adds<Real>(); }
  /// One thread that is never in a hurry: messages move between calls.
  void set_progress(std::function<void()>) override {}

  std::unique_ptr<Segment<Real>> make_segment(const SegmentShape& shape) override {
    return std::make_unique<reference::ReferenceSegment<Real>>(shape);
  }

  void cut_images(const StoredImages<Real>& stored, const std::vector<DrawnImage>& drawn,
                  Real* images) override {
    for (const DrawnImage& image : drawn) {
      const std::uint8_t* pixels = stored.pixels + image.index * stored.image_size();
      for (int c = 0; c < stored.channels; ++c, pixels += stored.plane_size())
        for (int y = 0; y < stored.height; ++y)
          for (int x = 0; x < stored.width; ++x) {
            const int from_y = y + image.row;
            const int from_x = (image.flip ? stored.width - 1 - x : x) + image.column;
            const bool is_inside =
                0 <= from_y && from_y < stored.height && 0 <= from_x && from_x < stored.width;
            *images++ = is_inside
                            ? (static_cast<Real>(pixels[from_y * stored.width + from_x]) / 255 -
                               stored.mean[c]) /
                                  stored.deviation[c]
                            : Real{0};
          }
    }
  }

  void opening_convolve(const OpeningShape& shape, const Real* images,
                        const OpeningWeights<Real>& weights, StateView<Real> state,
                        NormStatistics statistics) override {
    for (int n = 0; n < shape.batch; ++n) {
      for (int f = 0; f < features(shape); ++f) {
        Real* out = plane(shape, state, n, f);
        std::fill_n(out, plane_size(shape), Real{0});
        reference::convolve(weights.kernel + std::size_t{9} * f * shape.in_channels, 1,
                            shape.in_channels, shape.height, shape.width,
                            images + n * shape.in_channels * plane_size(shape), out);
      }
    }
    if (statistics.mean != nullptr)
      compute_statistics(
          features(shape), shape.batch, plane_size(shape),
          [&](int n, int f) { return plane(shape, state, n, f); }, statistics);
  }

  void opening_normalise(const OpeningShape& shape, const OpeningWeights<Real>& weights,
                         NormStatistics statistics, StateView<Real> state) override {
    for (int n = 0; n < shape.batch; ++n) {
      for (int f = 0; f < features(shape); ++f) {
        const Norm<Real> norm(statistics, f, weights.scale[f], weights.shift[f]);
        Real* y = plane(shape, state, n, f);
        for (std::size_t p = 0; p < plane_size(shape); ++p)
          y[p] = reference::round_to_grid(std::max(norm(y[p]), Real{0}), shape.grid_bits);
      }
    }
    if (!shape.features.joined)
      std::fill_n(state.slot[1 - shape.features.slot],
                  std::size_t{1} * shape.batch * shape.channels * plane_size(shape), Real{0});
  }

  void opening_backward(const OpeningShape& shape, const Real* images,
                        const OpeningWeights<Real>& weights, NormStatistics statistics,
                        StateView<Real> state, StateView<Real> adjoint,
                        const OpeningGradient& gradient, OverflowNote overflow) override {
    opening_convolve(shape, images, weights, state, NormStatistics{});
    std::vector<Real> grad(std::size_t{1} * shape.batch * features(shape) * plane_size(shape));
    const auto grad_plane = [&](int n, int f) {
      return grad.data() + (std::size_t{1} * n * features(shape) + f) * plane_size(shape);
    };
    bool fits = true;
    for (int f = 0; f < features(shape); ++f) {
      for (int n = 0; n < shape.batch; ++n)
        std::copy_n(plane(shape, adjoint, n, f), plane_size(shape), grad_plane(n, f));
      fits &= norm_relu_backward(
          Norm<Real>(statistics, f, weights.scale[f], weights.shift[f]), shape.batch,
          plane_size(shape), [&](int n) { return plane(shape, state, n, f); },
          [&](int n) { return grad_plane(n, f); }, gradient.scale[f], gradient.shift[f]);
    }
    std::vector<Real> grad_kernel(std::size_t{9} * features(shape) * shape.in_channels);
    for (int n = 0; n < shape.batch; ++n)
      reference::convolve_kernel_gradient(
          features(shape), shape.in_channels, shape.height, shape.width,
          images + n * shape.in_channels * plane_size(shape),
          static_cast<const Real*>(grad_plane(n, 0)), grad_kernel.data());
    fits &= add_contributions(grad_kernel.data(), grad_kernel.size(), gradient.kernel);
    if (!fits) overflow.at(0);
  }

  void transition_forward(const TransitionShape& shape, StateView<Real> in,
                          StateView<Real> out) override {
    const int height = shape.height / 2, width = shape.width / 2;
    for (int slot = 0; slot < 2; ++slot) {
      std::fill_n(out.slot[slot],
                  std::size_t{1} * shape.batch * shape.out_channels * height * width, Real{0});
      for_each_pooled(shape, [&](std::size_t corner, std::size_t pooled) {
        const Real* x = in.slot[slot] + corner;
        const Real mean = (x[0] + x[1] + x[shape.width] + x[shape.width + 1]) * Real{0.25};
        out.slot[slot][pooled] = reference::round_to_grid(mean, shape.grid_bits);
      });
    }
  }

  void transition_backward(const TransitionShape& shape, StateView<Real> adjoint_out,
                           StateView<Real> adjoint_in) override {
    for (int slot = 0; slot < 2; ++slot) {
      for_each_pooled(shape, [&](std::size_t corner, std::size_t pooled) {
        Real* x = adjoint_in.slot[slot] + corner;
        x[0] = x[1] = x[shape.width] = x[shape.width + 1] =
            adjoint_out.slot[slot][pooled] * Real{0.25};
      });
    }
  }

  void closing_statistics(const ClosingShape& shape, StateView<Real> state,
                          NormStatistics statistics) override {
    compute_statistics(
        features(shape), shape.batch, plane_size(shape),
        [&](int n, int f) { return plane(shape, state, n, f); }, statistics);
  }

  void closing_forward(const ClosingShape& shape, StateView<Real> state,
                       const ClosingWeights<Real>& weights, NormStatistics statistics,
                       Real* logits) override {
    for (int n = 0; n < shape.batch; ++n) {
      const std::vector<Real> pooled = pool_features(shape, state, weights, statistics, n);
      for (int k = 0; k < shape.num_classes; ++k) {
        Real sum = weights.bias[k];
        for (int f = 0; f < features(shape); ++f)
          sum += weights.weight[k * features(shape) + f] * pooled[f];
        logits[n * shape.num_classes + k] = sum;
      }
    }
  }

  void closing_backward(const ClosingShape& shape, StateView<Real> state,
                        const ClosingWeights<Real>& weights, NormStatistics statistics,
                        const Real* grad_logits, StateView<Real> adjoint,
                        const ClosingGradient& gradient, OverflowNote overflow) override {
    for (Real* slot : adjoint.slot)
      std::fill_n(slot, std::size_t{1} * shape.batch * shape.channels * plane_size(shape), Real{0});
    // logits = W pooled + b, pooled = mean over the plane
    std::vector<Real> grad_weight(std::size_t{1} * shape.num_classes * features(shape));
    std::vector<Real> grad_bias(shape.num_classes);
    for (int n = 0; n < shape.batch; ++n) {
      const std::vector<Real> pooled = pool_features(shape, state, weights, statistics, n);
      const Real* g = grad_logits + n * shape.num_classes;
      for (int k = 0; k < shape.num_classes; ++k) {
        grad_bias[k] += g[k];
        for (int f = 0; f < features(shape); ++f)
          grad_weight[k * features(shape) + f] += g[k] * pooled[f];
      }
      for (int f = 0; f < features(shape); ++f) {
        Real sum = 0;
        for (int k = 0; k < shape.num_classes; ++k)
          sum += g[k] * weights.weight[k * features(shape) + f];
        std::fill_n(plane(shape, adjoint, n, f), plane_size(shape),
                    sum / static_cast<Real>(plane_size(shape)));
      }
    }
    bool fits = add_contributions(grad_weight.data(), grad_weight.size(), gradient.weight);
    fits &= add_contributions(grad_bias.data(), grad_bias.size(), gradient.bias);
    for (int f = 0; f < features(shape); ++f) {
      const auto plane_of = [&](const StateView<Real>& view) {
        return [&, f](int n) { return plane(shape, view, n, f); };
      };
      fits &= norm_relu_backward(Norm<Real>(statistics, f, weights.scale[f], weights.shift[f]),
                                 shape.batch, plane_size(shape), plane_of(state), plane_of(adjoint),
                                 gradient.scale[f], gradient.shift[f]);
    }
    if (!fits) overflow.at(0);
  }

 private:
  template <typename Shape>
  static std::size_t plane_size(const Shape& shape) {
    return static_cast<std::size_t>(shape.height) * shape.width;
  }
  template <typename Shape>
  static int features(const Shape& shape) {
    return shape.features.num_features(shape.channels);
  }
  template <typename Shape>
  static Real* plane(const Shape& shape, const StateView<Real>& state, int n, int f) {
    return feature_plane(state, shape.features, shape.channels, plane_size(shape), n, f);
  }

  /// f(offset of the top left of a 2x2 square in one slot of the input, offset of its mean in the
  /// output).
  template <typename Function>
  static void for_each_pooled(const TransitionShape& shape, Function&& f) {
    const int height = shape.height / 2, width = shape.width / 2;
    for (int n = 0; n < shape.batch; ++n)
      for (int c = 0; c < shape.in_channels; ++c)
        for (int y = 0; y < height; ++y)
          for (int x = 0; x < width; ++x)
            f((static_cast<std::size_t>(n * shape.in_channels + c) * shape.height + 2 * y) *
                      shape.width +
                  2 * x,
              (static_cast<std::size_t>(n * shape.out_channels + c + shape.channels_in_front()) *
                   height +
               y) * width +
                  x);
  }

  /// Mean over the plane of relu(norm(features)) of image n.
  static std::vector<Real> pool_features(const ClosingShape& shape, const StateView<Real>& state,
                                         const ClosingWeights<Real>& weights,
                                         NormStatistics statistics, int n) {
    std::vector<Real> pooled(features(shape));
    for (int f = 0; f < features(shape); ++f) {
      const Norm<Real> norm(statistics, f, weights.scale[f], weights.shift[f]);
      const Real* x = plane(shape, state, n, f);
      double sum = 0;
      for (std::size_t p = 0; p < plane_size(shape); ++p) sum += std::max(norm(x[p]), Real{0});
      pooled[f] = static_cast<Real>(sum / static_cast<double>(plane_size(shape)));
    }
    return pooled;
  }
};

}  // namespace

template <typename Real>
std::unique_ptr<Backend<Real>> make_reference_backend() {
  return std::make_unique<ReferenceBackend<Real>>();
}

template std::unique_ptr<Backend<float>> make_reference_backend();
template std::unique_ptr<Backend<double>> make_reference_backend();

}  // namespace revode
