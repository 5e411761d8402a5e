// Batch norm along rows. Each instruction set compiles this file once; see norm_kernels.hpp for
// what the calls do.
#include "backend/cpu/norm_kernels.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"

// foreach_target.h must come first: it includes this file once an instruction set.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/norm_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/rows-inl.hpp"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

// Sums are formed in double: half as many lanes.
using SumTag = hn::CappedTag<double, 8>;
using SumVector = hn::Vec<SumTag>;
using HalfTag = hn::Rebind<float, SumTag>;
using HalfVector = hn::Vec<HalfTag>;
inline constexpr int half_lanes = static_cast<int>(hn::MaxLanes(SumTag()));

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

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace revode::cpu {

HWY_EXPORT(moments);
HWY_EXPORT(norm_relu_sum);
HWY_EXPORT(norm_relu_apply);
HWY_EXPORT(gradient_sums);
HWY_EXPORT(backward);

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

}  // namespace revode::cpu
#endif  // HWY_ONCE
