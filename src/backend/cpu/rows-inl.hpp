// Rows of floats by whole vectors, with what is left at their ends: what the kernels of opening,
// transition and closing share. Compiled once an instruction set.
#if defined(REVODE_CPU_ROWS_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef REVODE_CPU_ROWS_INL_HPP_
#undef REVODE_CPU_ROWS_INL_HPP_
#else
#define REVODE_CPU_ROWS_INL_HPP_
#endif

#include <cmath>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using RowTag = hn::CappedTag<float, 16>;
using RowVector = hn::Vec<RowTag>;
inline constexpr int row_lanes = static_cast<int>(hn::MaxLanes(RowTag()));

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

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once an instruction set
