// The kernels of opening, transition and closing: one plane or one image each, in one thread. Free
// of batches and threads; the instruction set is chosen when they are called.
#pragma once

#include <cmath>
#include <cstddef>

#include "revode/backend/ends.hpp"

namespace revode::cpu {

/// Rows of one channel of one image: [height, width], rows `stride` floats apart.
struct Plane {
  const float* data = nullptr;
  int height = 0;
  int width = 0;
  std::size_t stride = 0;
};
struct MutablePlane {
  float* data = nullptr;
  std::size_t stride = 0;
};

/// One feature of a batch norm: xhat = (x - mean) * inverse_deviation, y = scale * xhat + shift.
struct Norm {
  Norm(const NormStatistics& statistics, int feature, float scale_in, float shift_in)
      : mean(static_cast<float>(statistics.mean[feature])),
        inverse_deviation(
            static_cast<float>(1 / std::sqrt(statistics.variance[feature] + norm_epsilon))),
        scale(scale_in),
        shift(shift_in) {}

  float mean, inverse_deviation, scale, shift;
};

/// Two sums over a plane, in double.
struct SumPair {
  double first = 0;
  double second = 0;
  SumPair& operator+=(const SumPair& more) {
    first += more.first;
    second += more.second;
    return *this;
  }
};

/// out [height, width] <- x, row behind row
void copy_plane(const Plane& x, float* out);

/// sum x, sum x^2
SumPair plane_moments(const Plane& x);

/// sum relu(norm(x))
double sum_norm_relu(const Plane& x, const Norm& norm);

/// y <- round(relu(norm(x))); y may be x.
void apply_norm_relu(const Plane& x, const Norm& norm, int grid_bits, const MutablePlane& y);

/// With g = grad where norm(x) > 0, else 0:  sum g, sum g xhat
SumPair norm_relu_gradient_sums(const Plane& x, const Norm& norm, const Plane& grad);

/// out <- scale * inverse_deviation * (g - means.first - xhat * means.second); out may be grad.
void norm_relu_backward(const Plane& x, const Norm& norm, const Plane& grad, const SumPair& means,
                        const MutablePlane& out);

/// Geometry of the opening's convolution: an image with a border of one zero pixel, taken as one
/// long row. Sums at the last two columns of a row are of no meaning.
struct BorderedImage {
  int channels = 0;
  int height = 0;
  int width = 0;

  std::size_t stride() const { return static_cast<std::size_t>(width) + 2; }
  std::size_t plane_size() const { return (static_cast<std::size_t>(height) + 2) * stride(); }
  /// Sums of one feature, in rows of stride(), rounded up to whole steps of the kernels.
  std::size_t sums_size() const { return (height * stride() + 63) / 64 * 64; }
  /// With room for the last step to read beyond the end.
  std::size_t scratch_size() const { return channels * plane_size() + 128; }
};

/// bordered <- image [channels, height, width], zeros around it and behind it.
void add_border(const BorderedImage& shape, const float* image, float* bordered);

/// sums [features, sums_size()] (aligned) <- K image; kernel [features, channels, 3, 3].
void convolve_bordered(const BorderedImage& shape, const float* bordered, const float* kernel,
                       int num_features, float* sums);

/// grad_kernel[f][i][ky][kx] += sum over pixels of g_f * image_i[p + k - 1].
/// g  [features, sums_size()], aligned, zero where there is no pixel
void add_bordered_kernel_gradient(const BorderedImage& shape, const float* bordered, const float* g,
                                  int num_features, float* grad_kernel);

/// out [height/2, width/2] <- round(mean of each 2x2 square of in)
void pool_plane(const float* in, int height, int width, int grid_bits, float* out);
/// Its adjoint: out [height, width] <- each value of in [height/2, width/2], a quarter to each.
void unpool_plane(const float* in, int height, int width, float* out);

}  // namespace revode::cpu
