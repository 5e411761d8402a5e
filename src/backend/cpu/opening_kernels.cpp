// The opening's convolution, on an image as one long row. Each instruction set compiles this file
// once; see opening_kernels.hpp for what the calls do.
#include "backend/cpu/opening_kernels.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"

// foreach_target.h must come first: it includes this file once an instruction set.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/opening_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/rows-inl.hpp"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

void copy_rows(const Plane& x, float* out) {
  const RowTag d;
  for (int y = 0; y < x.height; ++y, out += x.width) {
    for (int k = 0; k < x.width; k += row_lanes) {
      const int count = std::min(row_lanes, x.width - k);
      store_some(load_some(d, x.data + y * x.stride + k, count), d, out + k, count);
    }
  }
}

// Features that share the loads of an image's pixels, by the registers there are.
#if HWY_MAX_BYTES == 64
inline constexpr int convolved_together = 4, gradients_together = 2;
#else
inline constexpr int convolved_together = 2, gradients_together = 1;
#endif

/// sums[f][t] = sum over i, ky, kx of K[f][i][ky][kx] * bordered_i[t + ky * stride + kx]
template <int num_features>
HWY_INLINE void convolve_features(const BorderedImage& shape, const float* HWY_RESTRICT bordered,
                                  const float* HWY_RESTRICT kernel, float* HWY_RESTRICT sums) {
  const RowTag d;
  constexpr int unroll = row_lanes >= 8 ? 4 : 2;
  const int taps = 9 * shape.channels;
  for (std::size_t t = 0; t < shape.sums_size(); t += unroll * row_lanes) {
    RowVector sum[num_features][unroll];
#pragma GCC unroll 16
    for (int f = 0; f < num_features; ++f)
#pragma GCC unroll 16
      for (int v = 0; v < unroll; ++v) sum[f][v] = hn::Zero(d);
    const float* weight = kernel;
    for (int i = 0; i < shape.channels; ++i) {
      for (int ky = 0; ky < 3; ++ky) {
        const float* in = bordered + i * shape.plane_size() + ky * shape.stride() + t;
#pragma GCC unroll 1
        for (int kx = 0; kx < 3; ++kx, ++in, ++weight) {
          RowVector value[unroll];
#pragma GCC unroll 16
          for (int v = 0; v < unroll; ++v) value[v] = hn::LoadU(d, in + v * row_lanes);
#pragma GCC unroll 16
          for (int f = 0; f < num_features; ++f) {
            const RowVector w = hn::Set(d, weight[f * taps]);
#pragma GCC unroll 16
            for (int v = 0; v < unroll; ++v) sum[f][v] = hn::MulAdd(w, value[v], sum[f][v]);
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int f = 0; f < num_features; ++f)
#pragma GCC unroll 16
      for (int v = 0; v < unroll; ++v)
        hn::Store(sum[f][v], d, sums + f * shape.sums_size() + t + v * row_lanes);
  }
}

void convolve_long_rows(const BorderedImage& shape, const float* HWY_RESTRICT bordered,
                        const float* HWY_RESTRICT kernel, int num_features,
                        float* HWY_RESTRICT sums) {
  for (int f = 0; f < num_features;) {
    const float* k = kernel + std::size_t{9} * f * shape.channels;
    float* to = sums + f * shape.sums_size();
    if (num_features - f >= convolved_together) {
      convolve_features<convolved_together>(shape, bordered, k, to);
      f += convolved_together;
    } else {
      convolve_features<1>(shape, bordered, k, to);
      ++f;
    }
  }
}

template <int num_features>
HWY_INLINE void add_feature_gradients(const BorderedImage& shape,
                                      const float* HWY_RESTRICT bordered,
                                      const float* HWY_RESTRICT g,
                                      float* HWY_RESTRICT grad_kernel) {
  const RowTag d;
  for (int i = 0; i < shape.channels; ++i) {
    const float* plane = bordered + i * shape.plane_size();
    RowVector sum[num_features][9];
#pragma GCC unroll 16
    for (int f = 0; f < num_features; ++f)
#pragma GCC unroll 16
      for (int tap = 0; tap < 9; ++tap) sum[f][tap] = hn::Zero(d);
    for (std::size_t t = 0; t < shape.sums_size(); t += row_lanes) {
      RowVector value[num_features];
#pragma GCC unroll 16
      for (int f = 0; f < num_features; ++f) value[f] = hn::Load(d, g + f * shape.sums_size() + t);
#pragma GCC unroll 16
      for (int tap = 0; tap < 9; ++tap) {
        const RowVector in = hn::LoadU(d, plane + tap / 3 * shape.stride() + tap % 3 + t);
#pragma GCC unroll 16
        for (int f = 0; f < num_features; ++f) sum[f][tap] = hn::MulAdd(value[f], in, sum[f][tap]);
      }
    }
#pragma GCC unroll 16
    for (int f = 0; f < num_features; ++f) {
#pragma GCC unroll 16
      for (int tap = 0; tap < 9; ++tap) {
        HWY_ALIGN float lane[row_lanes];
        hn::Store(sum[f][tap], d, lane);
        float total = 0;
        for (const float part : lane) total += part;
        grad_kernel[(f * shape.channels + i) * 9 + tap] += total;
      }
    }
  }
}

void kernel_gradients_long_rows(const BorderedImage& shape, const float* HWY_RESTRICT bordered,
                                const float* HWY_RESTRICT g, int num_features,
                                float* HWY_RESTRICT grad_kernel) {
  for (int f = 0; f < num_features;) {
    const float* from = g + f * shape.sums_size();
    float* grad = grad_kernel + std::size_t{9} * f * shape.channels;
    if (num_features - f >= gradients_together) {
      add_feature_gradients<gradients_together>(shape, bordered, from, grad);
      f += gradients_together;
    } else {
      add_feature_gradients<1>(shape, bordered, from, grad);
      ++f;
    }
  }
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace revode::cpu {

HWY_EXPORT(copy_rows);
HWY_EXPORT(convolve_long_rows);
HWY_EXPORT(kernel_gradients_long_rows);

void add_border(const BorderedImage& shape, const float* image, float* bordered) {
  std::fill_n(bordered, shape.scratch_size(), 0.0f);
  for (int i = 0; i < shape.channels; ++i)
    for (int y = 0; y < shape.height; ++y, image += shape.width)
      std::copy_n(image, shape.width,
                  bordered + i * shape.plane_size() + (y + 1) * shape.stride() + 1);
}

void convolve_bordered(const BorderedImage& shape, const float* bordered, const float* kernel,
                       int num_features, float* sums) {
  HWY_DYNAMIC_DISPATCH(convolve_long_rows)(shape, bordered, kernel, num_features, sums);
}

void add_bordered_kernel_gradient(const BorderedImage& shape, const float* bordered, const float* g,
                                  int num_features, float* grad_kernel) {
  HWY_DYNAMIC_DISPATCH(kernel_gradients_long_rows)(shape, bordered, g, num_features, grad_kernel);
}

void copy_plane(const Plane& x, float* out) { HWY_DYNAMIC_DISPATCH(copy_rows)(x, out); }

}  // namespace revode::cpu
#endif  // HWY_ONCE
