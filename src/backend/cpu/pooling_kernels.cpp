// 2x2 pooling along rows. Each instruction set compiles this file once; see pooling_kernels.hpp for
// what the calls do.
#include "backend/cpu/pooling_kernels.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"

// foreach_target.h must come first: it includes this file once an instruction set.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/pooling_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/rows-inl.hpp"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

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

HWY_EXPORT(pool);
HWY_EXPORT(unpool);

void pool_plane(const float* in, int height, int width, int grid_bits, float* out) {
  HWY_DYNAMIC_DISPATCH(pool)(in, height, width, grid_bits, out);
}

void unpool_plane(const float* in, int height, int width, float* out) {
  HWY_DYNAMIC_DISPATCH(unpool)(in, height, width, out);
}

}  // namespace revode::cpu
#endif  // HWY_ONCE
