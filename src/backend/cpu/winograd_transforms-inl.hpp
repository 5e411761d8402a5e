// The transforms of Winograd's F(4x4, 3x3) (Lavin & Gray, CVPR 2016, arXiv 1509.09308), each on all
// 16 channels of a block at once. Compiled once an instruction set. Knows one tile, not where tiles
// lie.
//
//   Y = A^T [ (G k G^T) . (B^T d B) ] A,  summed over input channels inside the brackets
//
// with the interpolation points 0, 1, -1, 2, -2 and infinity:
//
//         | 4  0 -5  0  1  0 |        |  1/4    0    0  |          | 1  1  1  1  1  0 |
//         | 0 -4 -4  1  1  0 |        | -1/6 -1/6  -1/6 |    A^T = | 0  1 -1  2 -2  0 |
//   B^T = | 0  4 -4 -1  1  0 |    G = | -1/6  1/6  -1/6 |          | 0  1  1  4  4  0 |
//         | 0 -2 -1  2  1  0 |        | 1/24  1/12  1/6 |          | 0  1 -1  8 -8  1 |
//         | 0  2 -1 -2  1  0 |        | 1/24 -1/12  1/6 |
//         | 0  4  0 -5  0  1 |        |  0     0    1   |
//
// Error. With |.| taken entry by entry, an output is off by at most
//   (c + 32) 2^-24 |A^T| [ |G| |k| |G^T| . sum over channels |B^T| |d| |B| ] |A|
// (c additions, and the roundings on the way through the transforms). One way, the rows of |A^T|
// (|G| 1 . |B^T| 1) are at most 48 where a direct sum has 3: that is 48^2 / 9 = 256 times its bound
// in the worst case. Where signs are random, squares add up: 94.4 one way where a direct sum has 3,
// 31 times its error at the worst pixel. cpu_winograd_test.cpp holds the kernels to both.
#if defined(REVODE_CPU_WINOGRAD_TRANSFORMS_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef REVODE_CPU_WINOGRAD_TRANSFORMS_INL_HPP_
#undef REVODE_CPU_WINOGRAD_TRANSFORMS_INL_HPP_
#else
#define REVODE_CPU_WINOGRAD_TRANSFORMS_INL_HPP_
#endif

#include "backend/cpu/direct_convolution-inl.hpp"
#include "backend/cpu/winograd.hpp"

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

/// Without vectors the transforms cost more than they save: no segment takes the Winograd form, and
/// its couplings are not compiled.
inline constexpr bool has_winograd = HWY_TARGET != HWY_SCALAR;

/// t <- B^T t. Additions and multiply-adds in equal parts, as processors have units for both.
HWY_INLINE void transform_inputs(FloatVector (&t)[6]) {
  const FloatTag d;
  const FloatVector two = hn::Set(d, 2.0f), four = hn::Set(d, 4.0f);
  const FloatVector d42 = hn::Sub(t[4], t[2]), d31 = hn::Sub(t[3], t[1]);
  const FloatVector even = hn::NegMulAdd(four, t[2], t[4]);
  const FloatVector odd = hn::NegMulAdd(four, t[1], t[3]);
  t[0] = hn::MulAdd(four, hn::Sub(t[0], t[2]), d42);
  t[5] = hn::NegMulAdd(four, d31, hn::Sub(t[5], t[3]));
  t[1] = hn::Add(even, odd);
  t[2] = hn::Sub(even, odd);
  t[3] = hn::MulAdd(two, d31, d42);
  t[4] = hn::NegMulAdd(two, d31, d42);
}

/// y <- A^T m
HWY_INLINE void transform_products(const FloatVector (&m)[6], FloatVector (&y)[4]) {
  const FloatTag d;
  const FloatVector sum1 = hn::Add(m[1], m[2]), difference1 = hn::Sub(m[1], m[2]);
  const FloatVector sum2 = hn::Add(m[3], m[4]), difference2 = hn::Sub(m[3], m[4]);
  y[0] = hn::Add(hn::Add(m[0], sum1), sum2);
  y[1] = hn::MulAdd(hn::Set(d, 2.0f), difference2, difference1);
  y[2] = hn::MulAdd(hn::Set(d, 4.0f), sum2, sum1);
  y[3] = hn::MulAdd(hn::Set(d, 8.0f), difference2, hn::Add(difference1, m[5]));
}

/// z <- A y, the adjoint of transform_products().
HWY_INLINE void transform_gradients(const FloatVector (&y)[4], FloatVector (&z)[6]) {
  const FloatTag d;
  const FloatVector two = hn::Set(d, 2.0f), four = hn::Set(d, 4.0f);
  const FloatVector even1 = hn::Add(y[0], y[2]), odd1 = hn::Add(y[1], y[3]);
  const FloatVector even2 = hn::MulAdd(four, y[2], y[0]), odd2 = hn::MulAdd(four, y[3], y[1]);
  z[0] = y[0];
  z[1] = hn::Add(even1, odd1);
  z[2] = hn::Sub(even1, odd1);
  z[3] = hn::MulAdd(two, odd2, even2);
  z[4] = hn::NegMulAdd(two, odd2, even2);
  z[5] = y[3];
}

/// u <- G k
HWY_INLINE void transform_taps(const FloatVector (&k)[3], FloatVector (&u)[6]) {
  const FloatTag d;
  const FloatVector sixth = hn::Set(d, 1.0f / 6), sum = hn::Add(k[0], k[2]);
  const FloatVector even = hn::Mul(sixth, hn::MulAdd(hn::Set(d, 0.25f), k[0], k[2]));
  const FloatVector odd = hn::Mul(hn::Set(d, 1.0f / 12), k[1]);
  u[0] = hn::Mul(hn::Set(d, 0.25f), k[0]);
  u[1] = hn::Neg(hn::Mul(sixth, hn::Add(sum, k[1])));
  u[2] = hn::Neg(hn::Mul(sixth, hn::Sub(sum, k[1])));
  u[3] = hn::Add(even, odd);
  u[4] = hn::Sub(even, odd);
  u[5] = k[2];
}

/// k <- G^T u, the adjoint of transform_taps().
HWY_INLINE void transform_tap_gradients(const FloatVector (&u)[6], FloatVector (&k)[3]) {
  const FloatTag d;
  const FloatVector sixth = hn::Set(d, 1.0f / 6), quarter = hn::Set(d, 0.25f);
  const FloatVector sum1 = hn::Add(u[1], u[2]), difference1 = hn::Sub(u[2], u[1]);
  const FloatVector sum2 = hn::Add(u[3], u[4]), difference2 = hn::Sub(u[3], u[4]);
  k[0] = hn::MulAdd(quarter, u[0], hn::Mul(sixth, hn::MulSub(quarter, sum2, sum1)));
  k[1] = hn::Mul(sixth, hn::MulAdd(hn::Set(d, 0.5f), difference2, difference1));
  k[2] = hn::MulAdd(sixth, hn::Sub(sum2, sum1), u[5]);
}

/// out <- B^T in B
///
/// in   the tile's first pixel; rows are `row_size` apart, pixels 16
/// out  place 0 of the tile
inline HWY_NOINLINE void transform_input_tile(const float* HWY_RESTRICT in, std::size_t row_size,
                                              float* HWY_RESTRICT out) {
  const FloatTag d;
  constexpr std::size_t place_size = Winograd::tiles_place_size;
#pragma GCC unroll 1
  for (int v = 0; v < block_channels; v += lanes) {
    FloatVector t[6][6];  // [column][row]
#pragma GCC unroll 16
    for (int column = 0; column < 6; ++column) {
#pragma GCC unroll 16
      for (int row = 0; row < 6; ++row)
        t[column][row] = hn::Load(d, in + row * row_size + column * block_channels + v);
      transform_inputs(t[column]);
    }
#pragma GCC unroll 16
    for (int row = 0; row < 6; ++row) {
      FloatVector along[6];
#pragma GCC unroll 16
      for (int column = 0; column < 6; ++column) along[column] = t[column][row];
      transform_inputs(along);
#pragma GCC unroll 16
      for (int column = 0; column < 6; ++column)
        hn::Store(along[column], d, out + (row * 6 + column) * place_size + v);
    }
  }
}

/// out <- A in A^T of a 4x4 tile; arguments as above.
inline HWY_NOINLINE void transform_gradient_tile(const float* HWY_RESTRICT in, std::size_t row_size,
                                                 float* HWY_RESTRICT out) {
  const FloatTag d;
  constexpr std::size_t place_size = Winograd::tiles_place_size;
#pragma GCC unroll 1
  for (int v = 0; v < block_channels; v += lanes) {
    FloatVector t[4][6];  // [column][row]
#pragma GCC unroll 16
    for (int column = 0; column < 4; ++column) {
      FloatVector y[4];
#pragma GCC unroll 16
      for (int row = 0; row < 4; ++row)
        y[row] = hn::Load(d, in + row * row_size + column * block_channels + v);
      transform_gradients(y, t[column]);
    }
#pragma GCC unroll 16
    for (int row = 0; row < 6; ++row) {
      const FloatVector along[4] = {t[0][row], t[1][row], t[2][row], t[3][row]};
      FloatVector z[6];
      transform_gradients(along, z);
#pragma GCC unroll 16
      for (int column = 0; column < 6; ++column)
        hn::Store(z[column], d, out + (row * 6 + column) * place_size + v);
    }
  }
}

/// Calls pixel(row, column, channel, y) for the 4x4 outputs y = A^T in A, `lanes` channels at once.
///
/// in  place 0 of the tile
template <typename Pixel>
HWY_INLINE void transform_product_tile(const float* HWY_RESTRICT in, Pixel&& pixel) {
  const FloatTag d;
#pragma GCC unroll 1
  for (int v = 0; v < block_channels; v += lanes) {
    FloatVector t[6][4];  // [row][column]
#pragma GCC unroll 16
    for (int row = 0; row < 6; ++row) {
      FloatVector m[6];
#pragma GCC unroll 16
      for (int column = 0; column < 6; ++column)
        m[column] = hn::Load(d, in + (row * 6 + column) * Winograd::tiles_place_size + v);
      transform_products(m, t[row]);
    }
#pragma GCC unroll 16
    for (int column = 0; column < 4; ++column) {
      const FloatVector along[6] = {t[0][column], t[1][column], t[2][column],
                                    t[3][column], t[4][column], t[5][column]};
      FloatVector y[4];
      transform_products(along, y);
#pragma GCC unroll 16
      for (int row = 0; row < 4; ++row) pixel(row, column, v, y[row]);
    }
  }
}

/// Calls body(weights of an input channel and an out block in a packed kernel (planes.hpp), their
/// place 0 in a transformed one).
template <typename Body>
HWY_INLINE void for_each_weight_vector(const Winograd& winograd, Body&& body) {
  const Planes& planes = winograd.planes;
  const int num_blocks = planes.num_blocks();
  for (int out = 0; out < num_blocks; ++out)
    for (int in = 0; in < num_blocks; ++in)
      for (int i = 0; i < planes.channels_of_block(in); ++i)
        body((out * num_blocks + in) * 3 * planes.kernel_slice_size() +
                 std::size_t{3} * i * block_channels,
             out * winograd.kernel_block_size() +
                 (std::size_t{1} * in * block_channels + i) * block_channels);
}

/// transformed <- G k G^T for each pair of channels of a packed kernel.
inline void transform_kernel(const Winograd& winograd, const float* HWY_RESTRICT packed,
                             float* HWY_RESTRICT transformed) {
  const std::size_t slice_size = winograd.planes.kernel_slice_size();
  const std::size_t place_size = winograd.kernel_place_size();
  for_each_weight_vector(winograd, [&](std::size_t from, std::size_t to) HWY_ATTR {
    const FloatTag d;
#pragma GCC unroll 1
    for (int v = 0; v < block_channels; v += lanes) {
      FloatVector t[3][6];  // [kx][row]
#pragma GCC unroll 16
      for (int kx = 0; kx < 3; ++kx) {
        FloatVector k[3];
#pragma GCC unroll 16
        for (int ky = 0; ky < 3; ++ky)
          k[ky] = hn::Load(d, packed + from + ky * slice_size + kx * block_channels + v);
        transform_taps(k, t[kx]);
      }
#pragma GCC unroll 16
      for (int row = 0; row < 6; ++row) {
        const FloatVector along[3] = {t[0][row], t[1][row], t[2][row]};
        FloatVector u[6];
        transform_taps(along, u);
#pragma GCC unroll 16
        for (int column = 0; column < 6; ++column)
          hn::Store(u[column], d, transformed + to + (row * 6 + column) * place_size + v);
      }
    }
  });
}

/// packed += sign * G^T u G for each pair of channels of the gradient u of a transformed kernel.
inline void add_transformed_gradient(const Winograd& winograd, float sign,
                                     const float* HWY_RESTRICT transformed,
                                     float* HWY_RESTRICT packed) {
  const std::size_t slice_size = winograd.planes.kernel_slice_size();
  const std::size_t place_size = winograd.kernel_place_size();
  for_each_weight_vector(winograd, [&](std::size_t to, std::size_t from) HWY_ATTR {
    const FloatTag d;
#pragma GCC unroll 1
    for (int v = 0; v < block_channels; v += lanes) {
      FloatVector t[6][3];  // [column][ky]
#pragma GCC unroll 16
      for (int column = 0; column < 6; ++column) {
        FloatVector u[6];
#pragma GCC unroll 16
        for (int row = 0; row < 6; ++row)
          u[row] = hn::Load(d, transformed + from + (row * 6 + column) * place_size + v);
        transform_tap_gradients(u, t[column]);
      }
#pragma GCC unroll 16
      for (int ky = 0; ky < 3; ++ky) {
        const FloatVector along[6] = {t[0][ky], t[1][ky], t[2][ky], t[3][ky], t[4][ky], t[5][ky]};
        FloatVector k[3];
        transform_tap_gradients(along, k);
#pragma GCC unroll 16
        for (int kx = 0; kx < 3; ++kx) {
          float* at = packed + to + ky * slice_size + kx * block_channels + v;
          hn::Store(hn::MulAdd(hn::Set(d, sign), k[kx], hn::Load(d, at)), d, at);
        }
      }
    }
  });
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once an instruction set
