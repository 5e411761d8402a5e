// What segments need beside advance_kernels.cpp and retreat_kernels.cpp: the choice of a form,
// kernels in that form, sums. Each instruction set compiles this file once; see segment_kernels.hpp
// for what the calls do.
#include "backend/cpu/segment_kernels.hpp"

#include "backend/cpu/targets.hpp"

// foreach_target.h must come first: it includes this file once an instruction set.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/segment_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/winograd_transforms-inl.hpp"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

/// A tile costs Winograd 36 multiply-adds an input channel, and transforms that cost as much as
/// some 5 channels more, where the direct form takes 9 an output pixel, at most 144. So Winograd
/// pays with some channels, and where not too much of the tiles hangs over the edge: from a third
/// on, as was measured.
Form form_for(const Planes& planes) {
  constexpr int fewest_channels = 8;
  const Winograd winograd(planes);
  const int pixels = planes.height * planes.width;
  const int tile_pixels = Winograd::outputs * Winograd::outputs * winograd.tiles_an_image();
  const bool pays = has_winograd && planes.channels >= fewest_channels && 3 * pixels >= tile_pixels;
  return pays ? Form::winograd : Form::direct;
}

void transform_packed(const Planes& planes, const float* packed, float* transformed) {
  transform_kernel(Winograd(planes), packed, transformed);
}

InstructionSet instruction_set() { return {hwy::TargetName(HWY_TARGET), lanes}; }

void add_arrays(float* HWY_RESTRICT total, const float* HWY_RESTRICT more, std::size_t size) {
  const FloatTag d;
  std::size_t k = 0;
  for (; k + lanes <= size; k += lanes)
    hn::Store(hn::Add(hn::Load(d, total + k), hn::Load(d, more + k)), d, total + k);
  for (; k < size; ++k) total[k] += more[k];
}

/// x 2^40 rounded to the nearest integer, ties to even, for |x| < 2^11: adding 1.5 2^52 leaves the
/// integer in the low bits of the sum.
bool add_exactly(const float* values, std::size_t size, ExactSum* sums) {
  std::size_t i = 0;
  bool all_in_range = true;
#if HWY_HAVE_FLOAT64 && HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<double> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<float, decltype(d)> df;
  constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52
  const auto scale = hn::Set(d, exact_sum_scale), to_integer = hn::Set(d, shift);
  const auto limit = hn::Set(d, contribution_limit);
  auto all = hn::Eq(limit, limit);
  for (; i + hn::Lanes(d) <= size; i += hn::Lanes(d)) {
    const auto value = hn::PromoteTo(d, hn::LoadU(df, values + i));
    const auto in_range = hn::Lt(hn::Abs(value), limit);  // not for a NaN
    all = hn::And(all, in_range);
    const auto integer = hn::Sub(hn::BitCast(di, hn::Add(hn::Mul(value, scale), to_integer)),
                                 hn::BitCast(di, to_integer));
    const auto term = hn::IfThenElseZero(hn::RebindMask(di, in_range), integer);
    hn::StoreU(hn::Add(hn::LoadU(di, sums + i), term), di, sums + i);
  }
  all_in_range = hn::AllTrue(d, all);
#endif
  return add_contributions(values + i, size - i, sums + i) && all_in_range;
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace revode::cpu {

HWY_EXPORT(form_for);
HWY_EXPORT(transform_packed);
HWY_EXPORT(instruction_set);
HWY_EXPORT(add_arrays);
HWY_EXPORT(add_exactly);

Form best_form(const Planes& planes) { return HWY_DYNAMIC_DISPATCH(form_for)(planes); }

void transform_packed_kernel(const Planes& planes, const float* packed, float* transformed) {
  HWY_DYNAMIC_DISPATCH(transform_packed)(planes, packed, transformed);
}

InstructionSet instruction_set() { return HWY_DYNAMIC_DISPATCH(instruction_set)(); }

void add_arrays(float* total, const float* more, std::size_t size) {
  HWY_DYNAMIC_DISPATCH(add_arrays)(total, more, size);
}

bool add_to_exact_sums(const float* values, std::size_t size, ExactSum* sums) {
  return HWY_DYNAMIC_DISPATCH(add_exactly)(values, size, sums);
}

}  // namespace revode::cpu
#endif  // HWY_ONCE
