#include "backend/cuda/host_convolution.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace revode::cuda {
namespace {

/// Calls f(y, x, kernel entry without input channel, x offset) for every tap inside the image.
template <typename Shape, typename Function>
void for_each_tap(const Shape& shape, Function&& f) {
  for (int n = 0; n < shape.batch; ++n)
    for (int y = 0; y < shape.height; ++y)
      for (int x = 0; x < shape.width; ++x)
        for (int ky = 0; ky < 3; ++ky)
          for (int kx = 0; kx < 3; ++kx) {
            const int from_y = y + ky - 1, from_x = x + kx - 1;
            if (from_y < 0 || from_y >= shape.height || from_x < 0 || from_x >= shape.width)
              continue;
            const std::size_t out = (std::size_t{1} * n * shape.height + y) * shape.width + x;
            const std::size_t in =
                (std::size_t{1} * n * shape.height + from_y) * shape.width + from_x;
            f(out * shape.out_channels, in * shape.in_channels, ky * 3 + kx);
          }
}

/// What lies in memory as a number of bf16: the upper half of a float.
float number(std::uint16_t upper) {
  const std::uint32_t bits = std::uint32_t{upper} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
float number(float value) { return value; }

template <typename T>
void convolve_of(const Convolution& c) {
  std::fill_n(c.y, std::size_t{1} * c.batch * c.height * c.width * c.out_channels, 0.0f);
  for_each_tap(c, [&](std::size_t out, std::size_t in, int tap) {
    const T* x = static_cast<const T*>(c.x) + in;
    const int num_in = c.in_channels;
    for (int o = 0; o < c.out_channels; ++o) {
      const T* row = static_cast<const T*>(c.kernel) + (std::size_t{9} * o + tap) * num_in;
      float sum = c.y[out + o];
      for (int i = 0; i < num_in; ++i) sum += number(row[i]) * number(x[i]);
      c.y[out + o] = sum;
    }
  });
}

template <typename T>
void gradient_of(const ConvolutionGradient& g) {
  std::fill_n(g.grad_kernel, std::size_t{9} * g.out_channels * g.in_channels, 0.0f);
  for_each_tap(g, [&](std::size_t out, std::size_t in, int tap) {
    const T* x = static_cast<const T*>(g.x) + in;
    const int num_in = g.in_channels;
    for (int o = 0; o < g.out_channels; ++o) {
      float* row = g.grad_kernel + (std::size_t{9} * o + tap) * num_in;
      const float grad = number(static_cast<const T*>(g.grad_y)[out + o]);
      for (int i = 0; i < num_in; ++i) row[i] += grad * number(x[i]);
    }
  });
}

}  // namespace

void convolve_plainly(const Convolution& c) {
  c.precision == Precision::bf16 ? convolve_of<std::uint16_t>(c) : convolve_of<float>(c);
}

void convolve_plainly(const ConvolutionGradient& g) {
  g.precision == Precision::bf16 ? gradient_of<std::uint16_t>(g) : gradient_of<float>(g);
}

}  // namespace revode::cuda
