// The convolution of the opening and its gradient: one image each, in one thread. Free of batches
// and threads; the instruction set is chosen when they are called.
#pragma once

#include <cstddef>

#include "backend/cpu/image_plane.hpp"

namespace revode::cpu {

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

/// out [height, width] <- x, row behind row
void copy_plane(const Plane& x, float* out);

}  // namespace revode::cpu
