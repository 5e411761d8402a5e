// Direct 3x3 convolution (stride 1, zero padding 1) and its weight gradient on blocked planes, by
// register tiles: each output is summed in a register from first to last product, always in the
// same order, so that the same input gives the same bits wherever its tile lies. Compiled once an
// instruction set. Knows nothing of couplings: what happens to a sum is an epilogue's business.
#if defined(REVODE_CPU_DIRECT_CONVOLUTION_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef REVODE_CPU_DIRECT_CONVOLUTION_INL_HPP_
#undef REVODE_CPU_DIRECT_CONVOLUTION_INL_HPP_
#else
#define REVODE_CPU_DIRECT_CONVOLUTION_INL_HPP_
#endif

#include <algorithm>

#include "backend/cpu/planes.hpp"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::CappedTag<float, block_channels>;
using FloatVector = hn::Vec<FloatTag>;
inline constexpr int lanes = static_cast<int>(hn::MaxLanes(FloatTag()));
/// Vectors that make up the 16 channels of a block.
inline constexpr int pieces = block_channels / lanes;

// Tiles by the registers there are: accumulators, the weights of three taps and one broadcast must
// fit into 32 (AVX-512, NEON) or 16 (AVX2, SSE4). `wide` pixels a row, `narrow` ones at its end.
#if HWY_MAX_BYTES == 64
inline constexpr int tile_rows = 2, tile_wide = 8, tile_narrow = 4, gradient_channels = 8;
#elif HWY_TARGET == HWY_NEON
inline constexpr int tile_rows = 1, tile_wide = 4, tile_narrow = 2, gradient_channels = 1;
#elif HWY_MAX_BYTES == 32
inline constexpr int tile_rows = 1, tile_wide = 4, tile_narrow = 2, gradient_channels = 2;
#else
inline constexpr int tile_rows = 1, tile_wide = 2, tile_narrow = 1, gradient_channels = 1;
#endif

/// sums[r][p][o] = sum over i, ky, kx of K[o][i][ky][kx] * x_i[y + r + ky - 1, x + p + kx - 1]
///
/// x        the input's pixel (y - 1, x - 1) in block 0
/// weights  packed, of one out block
/// sums     [tile_rows][num_pixels][16], aligned
template <int num_pixels>
HWY_NOINLINE void convolve_tile(const Planes& planes, const float* HWY_RESTRICT x,
                                const float* HWY_RESTRICT weights, float* HWY_RESTRICT sums) {
  const FloatTag d;
  FloatVector sum[tile_rows][num_pixels][pieces];
#pragma GCC unroll 16
  for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < num_pixels; ++p)
#pragma GCC unroll 16
      for (int v = 0; v < pieces; ++v) sum[r][p][v] = hn::Zero(d);

  const std::size_t row_size = planes.row_size();
  for (int block = 0; block < planes.num_blocks(); ++block) {
    const int num_channels = planes.channels_of_block(block);
    for (int ky = 0; ky < 3; ++ky) {
      const float* HWY_RESTRICT in = x + block * planes.plane_size() + ky * row_size;
      const float* HWY_RESTRICT w = weights;
      weights += planes.kernel_slice_size();
      for (int i = 0; i < num_channels; ++i, ++in, w += 3 * block_channels) {
        FloatVector tap[3][pieces];
#pragma GCC unroll 16
        for (int kx = 0; kx < 3; ++kx)
#pragma GCC unroll 16
          for (int v = 0; v < pieces; ++v)
            tap[kx][v] = hn::Load(d, w + kx * block_channels + v * lanes);
            // one broadcast serves the three pixels that see it, through the three taps
#pragma GCC unroll 16
        for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 16
          for (int q = 0; q < num_pixels + 2; ++q) {
            const FloatVector value = hn::Set(d, in[r * row_size + q * block_channels]);
#pragma GCC unroll 16
            for (int kx = 0; kx < 3; ++kx) {
              const int p = q - kx;
              if (p < 0 || p >= num_pixels) continue;
#pragma GCC unroll 16
              for (int v = 0; v < pieces; ++v)
                sum[r][p][v] = hn::MulAdd(value, tap[kx][v], sum[r][p][v]);
            }
          }
      }
    }
  }

#pragma GCC unroll 16
  for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < num_pixels; ++p)
#pragma GCC unroll 16
      for (int v = 0; v < pieces; ++v)
        hn::Store(sum[r][p][v], d, sums + (r * num_pixels + p) * block_channels + v * lanes);
}

/// Calls epilogue(sum, channel, offset) for each vector of K x over a group of images: `channel` is
/// the first output channel of the vector, `offset` its place in a tensor of the group.
/// The epilogue must not write to x.
template <typename Epilogue>
void convolve(const Planes& planes, int num_images, const float* x, const float* weights,
              Epilogue& epilogue) {
  const FloatTag d;
  HWY_ALIGN float sums[tile_rows * tile_wide * block_channels];
  const std::size_t weights_of_block = planes.packed_kernel_size() / planes.num_blocks();
  for (int block = 0; block < planes.num_blocks(); ++block, weights += weights_of_block) {
    for (int image = 0; image < num_images; ++image) {
      const float* in = x + image * planes.image_size();
      const std::size_t out = image * planes.image_size();
      for (int y = 0; y < planes.height; y += tile_rows) {
        const int num_rows = std::min(tile_rows, planes.height - y);
        for (int column = 0; column < planes.width;) {
          const int left = planes.width - column;
          const int tile = left > tile_narrow ? tile_wide : tile_narrow;
          const float* corner = in + planes.pixel(0, y - 1, column - 1);
          if (tile == tile_wide) {
            convolve_tile<tile_wide>(planes, corner, weights, sums);
          } else {
            convolve_tile<tile_narrow>(planes, corner, weights, sums);
          }
          const int num_pixels = std::min(tile, left);
          for (int r = 0; r < num_rows; ++r) {
            const float* sum = sums + r * tile * block_channels;
            const std::size_t offset = out + planes.pixel(block, y + r, column);
            for (int k = 0; k < num_pixels * block_channels; k += lanes)
              epilogue(hn::Load(d, sum + k), block * block_channels + k % block_channels,
                       offset + k);
          }
          column += tile;
        }
      }
    }
  }
}

/// Sums of the weight gradient that are held in registers, for one ky: [i][kx][o].
using GradientSums = FloatVector[gradient_channels][3][pieces];

/// sum[t][kx] += y[q + 1 - kx] * x_t[q] over the pixels q of a row of the input: pixel q of the
/// input meets pixel q + 1 - kx of the output through tap kx.
HWY_INLINE void add_row_products(int width, const float* HWY_RESTRICT y_row,
                                 const float* HWY_RESTRICT x_row, GradientSums& sum) {
  const FloatTag d;
  for (int q = 0; q < width; ++q, y_row += block_channels, x_row += block_channels) {
    FloatVector y[3][pieces];
#pragma GCC unroll 16
    for (int kx = 0; kx < 3; ++kx)
#pragma GCC unroll 16
      for (int v = 0; v < pieces; ++v)
        y[kx][v] = hn::Load(d, y_row + (1 - kx) * block_channels + v * lanes);
#pragma GCC unroll 16
    for (int t = 0; t < gradient_channels; ++t) {
      const FloatVector value = hn::Set(d, x_row[t]);
#pragma GCC unroll 16
      for (int kx = 0; kx < 3; ++kx)
#pragma GCC unroll 16
        for (int v = 0; v < pieces; ++v) sum[t][kx][v] = hn::MulAdd(value, y[kx][v], sum[t][kx][v]);
    }
  }
}

/// A product of the weight gradient: y plays K x, x the input.
struct GradientPair {
  const float* y = nullptr;
  const float* x = nullptr;
};

/// grad[o][i][ky][kx] += sum over pairs, images and pixels p of y_o[p] * x_i[p + k - 1]
///
/// y, x  tensors of the group, whose borders are zero
/// grad  packed like a kernel
inline void add_kernel_gradient(const Planes& planes, int num_images, const GradientPair* pairs,
                                int num_pairs, float* HWY_RESTRICT grad) {
  const FloatTag d;
  const std::size_t row_size = planes.row_size();
  for (int out = 0; out < planes.num_blocks(); ++out) {
    for (int in = 0; in < planes.num_blocks(); ++in) {
      for (int ky = 0; ky < 3; ++ky, grad += planes.kernel_slice_size()) {
        for (int i = 0; i < planes.channels_of_block(in); i += gradient_channels) {
          float* HWY_RESTRICT g = grad + i * 3 * block_channels;
          GradientSums sum;
#pragma GCC unroll 16
          for (int t = 0; t < gradient_channels; ++t)
#pragma GCC unroll 16
            for (int kx = 0; kx < 3; ++kx)
#pragma GCC unroll 16
              for (int v = 0; v < pieces; ++v)
                sum[t][kx][v] = hn::Load(d, g + (t * 3 + kx) * block_channels + v * lanes);

          // rows whose input row y + ky - 1 is the border add nothing
          const int first_row = std::max(0, 1 - ky);
          const int num_rows = std::min(planes.height, planes.height + 1 - ky) - first_row;
          for (int pair = 0; pair < num_pairs; ++pair) {
            for (int image = 0; image < num_images; ++image) {
              const float* HWY_RESTRICT y_row =
                  pairs[pair].y + image * planes.image_size() + planes.pixel(out, first_row, 0);
              const float* HWY_RESTRICT x_row = pairs[pair].x + image * planes.image_size() +
                                                planes.pixel(in, first_row + ky - 1, 0) + i;
              for (int row = 0; row < num_rows; ++row, y_row += row_size, x_row += row_size)
                add_row_products(planes.width, y_row, x_row, sum);
            }
          }

#pragma GCC unroll 16
          for (int t = 0; t < gradient_channels; ++t)
#pragma GCC unroll 16
            for (int kx = 0; kx < 3; ++kx)
#pragma GCC unroll 16
              for (int v = 0; v < pieces; ++v)
                hn::Store(sum[t][kx][v], d, g + (t * 3 + kx) * block_channels + v * lanes);
        }
      }
    }
  }
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once an instruction set
