// Batch norm, the opening's convolution and pooling, along rows. Each instruction set compiles this
// file once; see end_kernels.hpp for what the calls do.
#include "backend/cpu/end_kernels.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"

// foreach_target.h must come first: it includes this file once an instruction set.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/end_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using RowTag = hn::CappedTag<float, 16>;
using RowVector = hn::Vec<RowTag>;
inline constexpr int row_lanes = static_cast<int>(hn::MaxLanes(RowTag()));

// Sums are formed in double: half as many lanes.
using SumTag = hn::CappedTag<double, 8>;
using SumVector = hn::Vec<SumTag>;
using HalfTag = hn::Rebind<float, SumTag>;
using HalfVector = hn::Vec<HalfTag>;
inline constexpr int half_lanes = static_cast<int>(hn::MaxLanes(SumTag()));

/// The first `count` of a vector's lanes, the others 0.
template <typename D>
HWY_INLINE hn::Vec<D> load_some(D d, const float* from, int count) {
  if (count == static_cast<int>(hn::MaxLanes(d))) return hn::LoadU(d, from);
  HWY_ALIGN float lane[hn::MaxLanes(d)] = {};
  for (int k = 0; k < count; ++k) lane[k] = from[k];
  return hn::Load(d, lane);
}
template <typename D>
HWY_INLINE void store_some(hn::Vec<D> value, D d, float* to, int count) {
  if (count == static_cast<int>(hn::MaxLanes(d))) {
    hn::StoreU(value, d, to);
    return;
  }
  HWY_ALIGN float lane[hn::MaxLanes(d)];
  hn::Store(value, d, lane);
  for (int k = 0; k < count; ++k) to[k] = lane[k];
}

HWY_INLINE double sum_lanes(SumVector sum) {
  HWY_ALIGN double lane[half_lanes];
  hn::Store(sum, SumTag(), lane);
  double total = 0;
  for (const double value : lane) total += value;
  return total;
}

/// A Norm in vectors.
template <typename D>
struct NormOf {
  explicit NormOf(const Norm& norm)
      : mean(hn::Set(D(), norm.mean)),
        inverse_deviation(hn::Set(D(), norm.inverse_deviation)),
        scale(hn::Set(D(), norm.scale)),
        shift(hn::Set(D(), norm.shift)) {}
  HWY_INLINE hn::Vec<D> normalised(hn::Vec<D> x) const {
    return hn::Mul(hn::Sub(x, mean), inverse_deviation);
  }
  HWY_INLINE hn::Vec<D> operator()(hn::Vec<D> x) const {
    return hn::Add(hn::Mul(scale, normalised(x)), shift);
  }
  /// y < 0 ? 0 : y for y = norm(x), so that a NaN stays one
  HWY_INLINE hn::Vec<D> relu(hn::Vec<D> x) const {
    const hn::Vec<D> y = (*this)(x);
    return hn::IfThenZeroElse(hn::Lt(y, hn::Zero(D())), y);
  }
  /// grad where norm(x) > 0, else 0
  HWY_INLINE hn::Vec<D> masked(hn::Vec<D> x, hn::Vec<D> grad) const {
    return hn::IfThenElseZero(hn::Gt((*this)(x), hn::Zero(D())), grad);
  }

  hn::Vec<D> mean, inverse_deviation, scale, shift;
};

/// To the nearest multiple of 2^-grid_bits, ties to even, -0 to +0; 0 bits: no rounding.
struct RowGrid {
  explicit RowGrid(int grid_bits)
      : active(grid_bits > 0),
        unit(hn::Set(RowTag(), std::ldexp(1.0f, grid_bits))),
        inverse_unit(hn::Set(RowTag(), std::ldexp(1.0f, -grid_bits))) {}
  HWY_INLINE RowVector round(RowVector value) const {
    if (!active) return value;
    return hn::Add(hn::Mul(hn::Round(hn::Mul(value, unit)), inverse_unit), hn::Zero(RowTag()));
  }

  bool active;
  RowVector unit, inverse_unit;
};

void copy_rows(const Plane& x, float* out) {
  const RowTag d;
  for (int y = 0; y < x.height; ++y, out += x.width) {
    for (int k = 0; k < x.width; k += row_lanes) {
      const int count = std::min(row_lanes, x.width - k);
      store_some(load_some(d, x.data + y * x.stride + k, count), d, out + k, count);
    }
  }
}

SumPair moments(const Plane& x) {
  const SumTag d;
  const HalfTag half;
  SumVector sum = hn::Zero(d), squares = hn::Zero(d);
  for (int y = 0; y < x.height; ++y) {
    for (int k = 0; k < x.width; k += half_lanes) {
      const int count = std::min(half_lanes, x.width - k);
      const SumVector value = hn::PromoteTo(d, load_some(half, x.data + y * x.stride + k, count));
      sum = hn::Add(sum, value);
      squares = hn::MulAdd(value, value, squares);
    }
  }
  return {sum_lanes(sum), sum_lanes(squares)};
}

double norm_relu_sum(const Plane& x, const Norm& norm_in) {
  const SumTag d;
  const HalfTag half;
  const NormOf<HalfTag> norm(norm_in);
  SumVector sum = hn::Zero(d);
  for (int y = 0; y < x.height; ++y) {
    for (int k = 0; k < x.width; k += half_lanes) {
      const int count = std::min(half_lanes, x.width - k);
      const HalfVector value = norm.relu(load_some(half, x.data + y * x.stride + k, count));
      // lanes beyond the row hold relu(norm(0)): drop them
      const auto inside = hn::FirstN(half, static_cast<std::size_t>(count));
      sum = hn::Add(sum, hn::PromoteTo(d, hn::IfThenElseZero(inside, value)));
    }
  }
  return sum_lanes(sum);
}

void norm_relu_apply(const Plane& x, const Norm& norm_in, int grid_bits, const MutablePlane& y) {
  const RowTag d;
  const NormOf<RowTag> norm(norm_in);
  const RowGrid grid(grid_bits);
  for (int row = 0; row < x.height; ++row) {
    for (int k = 0; k < x.width; k += row_lanes) {
      const int count = std::min(row_lanes, x.width - k);
      const RowVector value = norm.relu(load_some(d, x.data + row * x.stride + k, count));
      store_some(grid.round(value), d, y.data + row * y.stride + k, count);
    }
  }
}

SumPair gradient_sums(const Plane& x, const Norm& norm_in, const Plane& grad) {
  const SumTag d;
  const HalfTag half;
  const NormOf<HalfTag> norm(norm_in);
  SumVector sum = hn::Zero(d), sum_normalised = hn::Zero(d);
  for (int y = 0; y < x.height; ++y) {
    for (int k = 0; k < x.width; k += half_lanes) {
      const int count = std::min(half_lanes, x.width - k);
      const HalfVector value = load_some(half, x.data + y * x.stride + k, count);
      const HalfVector g =
          norm.masked(value, load_some(half, grad.data + y * grad.stride + k, count));
      const SumVector wide = hn::PromoteTo(d, g);
      sum = hn::Add(sum, wide);
      sum_normalised = hn::MulAdd(wide, hn::PromoteTo(d, norm.normalised(value)), sum_normalised);
    }
  }
  return {sum_lanes(sum), sum_lanes(sum_normalised)};
}

void backward(const Plane& x, const Norm& norm_in, const Plane& grad, const SumPair& means,
              const MutablePlane& out) {
  const RowTag d;
  const NormOf<RowTag> norm(norm_in);
  const RowVector mean = hn::Set(d, static_cast<float>(means.first));
  const RowVector mean_normalised = hn::Set(d, static_cast<float>(means.second));
  const RowVector factor = hn::Mul(norm.scale, norm.inverse_deviation);
  for (int y = 0; y < x.height; ++y) {
    for (int k = 0; k < x.width; k += row_lanes) {
      const int count = std::min(row_lanes, x.width - k);
      const RowVector value = load_some(d, x.data + y * x.stride + k, count);
      const RowVector g = norm.masked(value, load_some(d, grad.data + y * grad.stride + k, count));
      const RowVector rest =
          hn::Sub(hn::Sub(g, mean), hn::Mul(norm.normalised(value), mean_normalised));
      store_some(hn::Mul(factor, rest), d, out.data + y * out.stride + k, count);
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

/// Even and odd elements of the first 2 * count floats.
HWY_INLINE void load_pairs(const float* from, int count, RowVector& even, RowVector& odd) {
  const RowTag d;
#if HWY_TARGET == HWY_SCALAR
  static_cast<void>(count);
  even = hn::Load(d, from);
  odd = hn::Load(d, from + 1);
#else
  HWY_ALIGN float lane[2 * row_lanes] = {};
  if (count < row_lanes) {
    for (int k = 0; k < 2 * count; ++k) lane[k] = from[k];
    from = lane;
  }
  hn::LoadInterleaved2(d, from, even, odd);
#endif
}

/// The first `count` floats, each twice.
HWY_INLINE void store_pairs(RowVector value, int count, float* to) {
  const RowTag d;
#if HWY_TARGET == HWY_SCALAR
  static_cast<void>(count);
  hn::Store(value, d, to);
  hn::Store(value, d, to + 1);
#else
  if (count == row_lanes) {
    hn::StoreInterleaved2(value, value, d, to);
    return;
  }
  HWY_ALIGN float lane[row_lanes];
  hn::Store(value, d, lane);
  for (int k = 0; k < count; ++k) to[2 * k] = to[2 * k + 1] = lane[k];
#endif
}

/// ((a + b) + c) + d over each square, a quarter of it rounded.
void pool(const float* in, int height, int width, int grid_bits, float* out) {
  const RowTag d;
  const RowGrid grid(grid_bits);
  const RowVector quarter = hn::Set(d, 0.25f);
  for (int y = 0; y < height / 2; ++y, in += 2 * width, out += width / 2) {
    for (int k = 0; k < width / 2; k += row_lanes) {
      const int count = std::min(row_lanes, width / 2 - k);
      RowVector a, b, c, e;
      load_pairs(in + 2 * k, count, a, b);
      load_pairs(in + width + 2 * k, count, c, e);
      const RowVector sum = hn::Add(hn::Add(hn::Add(a, b), c), e);
      store_some(grid.round(hn::Mul(sum, quarter)), d, out + k, count);
    }
  }
}

void unpool(const float* in, int height, int width, float* out) {
  const RowTag d;
  const RowVector quarter = hn::Set(d, 0.25f);
  for (int y = 0; y < height / 2; ++y, in += width / 2, out += 2 * width) {
    for (int k = 0; k < width / 2; k += row_lanes) {
      const int count = std::min(row_lanes, width / 2 - k);
      const RowVector value = hn::Mul(load_some(d, in + k, count), quarter);
      store_pairs(value, count, out + 2 * k);
      store_pairs(value, count, out + width + 2 * k);
    }
  }
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace revode::cpu {

HWY_EXPORT(copy_rows);
HWY_EXPORT(moments);
HWY_EXPORT(norm_relu_sum);
HWY_EXPORT(norm_relu_apply);
HWY_EXPORT(gradient_sums);
HWY_EXPORT(backward);
HWY_EXPORT(convolve_long_rows);
HWY_EXPORT(kernel_gradients_long_rows);
HWY_EXPORT(pool);
HWY_EXPORT(unpool);

void copy_plane(const Plane& x, float* out) { HWY_DYNAMIC_DISPATCH(copy_rows)(x, out); }

SumPair plane_moments(const Plane& x) { return HWY_DYNAMIC_DISPATCH(moments)(x); }

double sum_norm_relu(const Plane& x, const Norm& norm) {
  return HWY_DYNAMIC_DISPATCH(norm_relu_sum)(x, norm);
}

void apply_norm_relu(const Plane& x, const Norm& norm, int grid_bits, const MutablePlane& y) {
  HWY_DYNAMIC_DISPATCH(norm_relu_apply)(x, norm, grid_bits, y);
}

SumPair norm_relu_gradient_sums(const Plane& x, const Norm& norm, const Plane& grad) {
  return HWY_DYNAMIC_DISPATCH(gradient_sums)(x, norm, grad);
}

void norm_relu_backward(const Plane& x, const Norm& norm, const Plane& grad, const SumPair& means,
                        const MutablePlane& out) {
  HWY_DYNAMIC_DISPATCH(backward)(x, norm, grad, means, out);
}

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

void pool_plane(const float* in, int height, int width, int grid_bits, float* out) {
  HWY_DYNAMIC_DISPATCH(pool)(in, height, width, grid_bits, out);
}

void unpool_plane(const float* in, int height, int width, float* out) {
  HWY_DYNAMIC_DISPATCH(unpool)(in, height, width, out);
}

}  // namespace revode::cpu
#endif  // HWY_ONCE
