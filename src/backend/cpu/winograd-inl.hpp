// Convolutions and weight gradients in Winograd's transformed domain: chunks of tiles are
// transformed, multiplied in 36 small matrix products and transformed back into an epilogue. Each
// sum of a tile runs over input channels in ascending order, so that the same input gives the same
// bits whatever other tiles share its chunk or its registers. Compiled once an instruction set.
// Knows nothing of couplings: what happens to a sum is an epilogue's business.
#if defined(REVODE_CPU_WINOGRAD_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef REVODE_CPU_WINOGRAD_INL_HPP_
#undef REVODE_CPU_WINOGRAD_INL_HPP_
#else
#define REVODE_CPU_WINOGRAD_INL_HPP_
#endif

#include <algorithm>
#include <array>

#include "backend/cpu/winograd_transforms-inl.hpp"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

// Register tiles by the registers there are, as for the direct form. `panel` out blocks share the
// broadcast of an input; where only one is left, twice as many tiles do (AVX-512).
#if HWY_MAX_BYTES == 64
inline constexpr int panel = 2, product_tiles = 8, product_tiles_narrow = 4, product_channels = 8;
#elif HWY_TARGET == HWY_NEON
inline constexpr int panel = 1, product_tiles = 6, product_tiles_narrow = 2, product_channels = 4;
#elif HWY_MAX_BYTES == 32
inline constexpr int panel = 1, product_tiles = 6, product_tiles_narrow = 2, product_channels = 4;
#else
inline constexpr int panel = 1, product_tiles = 2, product_tiles_narrow = 1, product_channels = 2;
#endif
static_assert(product_tiles_narrow <= Winograd::spare_tiles);

/// A tile of a group of images.
struct Tile {
  std::size_t offset;  ///< of its first output in block 0 of a tensor of the group
  int rows, columns;   ///< outputs inside the image, at most 4 each

  bool whole() const { return rows == Winograd::outputs && columns == Winograd::outputs; }
};

struct TileChunk {
  std::array<Tile, Winograd::max_chunk_tiles> tile;
  int count = 0;
};

/// Calls body(chunk) for the tiles of a group in ascending order, up to `chunk_tiles` at once.
template <typename Body>
void for_each_chunk(const Winograd& winograd, int num_images, int chunk_tiles, Body&& body) {
  const Planes& planes = winograd.planes;
  TileChunk chunk;
  for (int image = 0; image < num_images; ++image) {
    for (int y = 0; y < planes.height; y += Winograd::outputs) {
      for (int x = 0; x < planes.width; x += Winograd::outputs) {
        chunk.tile[chunk.count++] = {image * planes.image_size() + planes.pixel(0, y, x),
                                     std::min(Winograd::outputs, planes.height - y),
                                     std::min(Winograd::outputs, planes.width - x)};
        if (chunk.count < chunk_tiles) continue;
        body(chunk);
        chunk.count = 0;
      }
    }
  }
  if (chunk.count > 0) body(chunk);
}

/// A tile of `size` x `size` pixels of which only the first `rows` x `columns` belong to the image:
/// the others are read as zeros, whatever lies there.
template <int size>
struct ClippedTile {
  ClippedTile(const float* in, std::size_t in_row_size, int rows, int columns) : values{} {
    for (int row = 0; row < rows; ++row)
      std::copy_n(in + row * in_row_size, columns * block_channels, values + row * row_size);
  }

  static constexpr std::size_t row_size = std::size_t{size} * block_channels;
  HWY_ALIGN float values[size * row_size];
};

/// transformed[place][block][slot + t][16] <- B^T d B of tile t of x.
inline void transform_chunk_inputs(const Winograd& winograd, const TileChunk& chunk, int slot,
                                   const float* HWY_RESTRICT x, float* HWY_RESTRICT transformed) {
  const Planes& planes = winograd.planes;
  const std::size_t row_size = planes.row_size();
  for (int block = 0; block < planes.num_blocks(); ++block) {
    float* out = transformed + block * Winograd::tiles_block_size + slot * block_channels;
    for (int t = 0; t < chunk.count; ++t, out += block_channels) {
      const Tile& tile = chunk.tile[t];
      const float* in = x + block * planes.plane_size() + tile.offset - row_size - block_channels;
      if (tile.whole()) {
        transform_input_tile(in, row_size, out);
      } else {
        const ClippedTile<6> clipped(in, row_size, tile.rows + 2, tile.columns + 2);
        transform_input_tile(clipped.values, clipped.row_size, out);
      }
    }
  }
}

/// transformed[place][block][slot + t][16] <- A y A^T of tile t of y.
inline void transform_chunk_gradients(const Winograd& winograd, const TileChunk& chunk, int slot,
                                      const float* HWY_RESTRICT y,
                                      float* HWY_RESTRICT transformed) {
  const Planes& planes = winograd.planes;
  for (int block = 0; block < planes.num_blocks(); ++block) {
    float* out = transformed + block * Winograd::tiles_block_size + slot * block_channels;
    for (int t = 0; t < chunk.count; ++t, out += block_channels) {
      const Tile& tile = chunk.tile[t];
      const float* in = y + block * planes.plane_size() + tile.offset;
      if (tile.whole()) {
        transform_gradient_tile(in, planes.row_size(), out);
      } else {
        const ClippedTile<4> clipped(in, planes.row_size(), tile.rows, tile.columns);
        transform_gradient_tile(clipped.values, clipped.row_size, out);
      }
    }
  }
}

/// Calls epilogue(sum, channel, offset), as convolve() does, for the outputs of a chunk's tiles
/// from their products in slots [slot, slot + chunk.count).
template <typename Epilogue>
void finish_chunk(const Winograd& winograd, const TileChunk& chunk, int slot,
                  const float* HWY_RESTRICT products, Epilogue& caller_epilogue) {
  const Planes planes = winograd.planes;
  const std::size_t row_size = planes.row_size();
  Epilogue epilogue = caller_epilogue;  // a copy, as no store can change it: registers hold it
  for (int block = 0; block < planes.num_blocks(); ++block) {
    const float* in = products + block * Winograd::tiles_block_size + slot * block_channels;
    for (int t = 0; t < chunk.count; ++t, in += block_channels) {
      const Tile& tile = chunk.tile[t];
      const std::size_t first = block * planes.plane_size() + tile.offset;
      const int channel = block * block_channels;
      if (tile.whole()) {
        const auto finish = [&](int row, int column, int v, FloatVector sum) HWY_ATTR {
          epilogue(sum, channel + v, first + row * row_size + column * block_channels + v);
        };
        transform_product_tile(in, finish);
      } else {
        const auto finish = [&](int row, int column, int v, FloatVector sum) HWY_ATTR {
          if (row < tile.rows && column < tile.columns)
            epilogue(sum, channel + v, first + row * row_size + column * block_channels + v);
        };
        transform_product_tile(in, finish);
      }
    }
  }
  caller_epilogue = epilogue;
}

/// Steps of the products at one place, in floats.
struct Steps {
  explicit Steps(const Winograd& winograd)
      : num_channels(winograd.planes.channels),
        kernel_block(winograd.kernel_block_size()),
        kernel_place(winograd.kernel_place_size()) {}

  int num_channels;
  std::size_t kernel_block;  ///< from out block to out block of a transformed kernel
  std::size_t kernel_place;  ///< from place to place of it
};

/// products[block b][t][o] = sum over i of kernel[b][i][o] * inputs[t][i] at one place, for
/// `num_tiles` tiles and `num_blocks` out blocks.
template <int num_tiles, int num_blocks>
HWY_INLINE void multiply_tiles(const Steps& steps, const float* inputs,
                               const float* HWY_RESTRICT kernel, float* products) {
  const FloatTag d;
  FloatVector sum[num_blocks][num_tiles][pieces];
#pragma GCC unroll 16
  for (int b = 0; b < num_blocks; ++b)
#pragma GCC unroll 16
    for (int t = 0; t < num_tiles; ++t)
#pragma GCC unroll 16
      for (int v = 0; v < pieces; ++v) sum[b][t][v] = hn::Zero(d);

  for (int left = steps.num_channels; left > 0;
       left -= block_channels, inputs += Winograd::tiles_block_size) {
    const float* HWY_RESTRICT in = inputs;
    const float* const end = in + std::min(left, block_channels);
#pragma GCC unroll 1
    for (; in != end; ++in, kernel += block_channels) {
      FloatVector weight[num_blocks][pieces];
#pragma GCC unroll 16
      for (int b = 0; b < num_blocks; ++b)
#pragma GCC unroll 16
        for (int v = 0; v < pieces; ++v)
          weight[b][v] = hn::Load(d, kernel + b * steps.kernel_block + v * lanes);
          // A place's weights are read once a chunk, in one go: too short for hardware to foresee.
#pragma GCC unroll 16
      for (int b = 0; b < num_blocks; ++b)
        hwy::Prefetch(kernel + steps.kernel_place + b * steps.kernel_block);
#pragma GCC unroll 16
      for (int t = 0; t < num_tiles; ++t) {
        const FloatVector value = hn::Set(d, in[t * block_channels]);
#pragma GCC unroll 16
        for (int b = 0; b < num_blocks; ++b)
#pragma GCC unroll 16
          for (int v = 0; v < pieces; ++v)
            sum[b][t][v] = hn::MulAdd(value, weight[b][v], sum[b][t][v]);
      }
    }
  }

#pragma GCC unroll 16
  for (int b = 0; b < num_blocks; ++b)
#pragma GCC unroll 16
    for (int t = 0; t < num_tiles; ++t)
#pragma GCC unroll 16
      for (int v = 0; v < pieces; ++v)
        hn::Store(sum[b][t][v], d,
                  products + b * Winograd::tiles_block_size + t * block_channels + v * lanes);
}

#if HWY_MAX_BYTES == 64
/// As multiply_tiles() for one block of 16 channels on both sides, whose weights stay in registers:
/// one load a multiply-add, which is what the processor can do.
inline constexpr int resident_tiles = 8;
inline HWY_NOINLINE void multiply_resident(int num_tiles, const float* inputs,
                                           const float* HWY_RESTRICT kernel, float* products) {
  const FloatTag d;
  FloatVector weight[block_channels];
#pragma GCC unroll 16
  for (int i = 0; i < block_channels; ++i) weight[i] = hn::Load(d, kernel + i * block_channels);
#pragma GCC unroll 1
  for (int t = 0; t < num_tiles; t += resident_tiles) {
    FloatVector sum[resident_tiles];
#pragma GCC unroll 16
    for (int k = 0; k < resident_tiles; ++k) sum[k] = hn::Zero(d);
#pragma GCC unroll 16
    for (int i = 0; i < block_channels; ++i)
#pragma GCC unroll 16
      for (int k = 0; k < resident_tiles; ++k)
        sum[k] = hn::MulAdd(hn::Set(d, inputs[k * block_channels + i]), weight[i], sum[k]);
#pragma GCC unroll 16
    for (int k = 0; k < resident_tiles; ++k) hn::Store(sum[k], d, products + k * block_channels);
    inputs += resident_tiles * block_channels;
    products += resident_tiles * block_channels;
  }
}
#endif

/// Out blocks [block, block + num_blocks) of one place for tiles [0, num_tiles).
template <int num_blocks>
HWY_NOINLINE void multiply_panel(const Steps& steps, int num_tiles, const float* inputs,
                                 const float* HWY_RESTRICT kernel, float* products) {
  constexpr int wide = product_tiles * panel / num_blocks;
  for (int t = 0; t < num_tiles;) {
    const int left = num_tiles - t;
    const std::size_t at = std::size_t{1} * t * block_channels;
    if (left >= wide) {
      multiply_tiles<wide, num_blocks>(steps, inputs + at, kernel, products + at);
      t += wide;
    } else if (wide > product_tiles && left >= product_tiles) {
      multiply_tiles<product_tiles, num_blocks>(steps, inputs + at, kernel, products + at);
      t += product_tiles;
    } else {
      multiply_tiles<product_tiles_narrow, num_blocks>(steps, inputs + at, kernel, products + at);
      t += product_tiles_narrow;
    }
  }
}

/// Whether multiply() may write its products over its inputs: a tile's are all read before the
/// first is written where one panel makes all of its outputs.
inline bool multiplies_in_place(const Winograd& winograd) {
  return winograd.planes.num_blocks() <= panel;
}

/// products <- kernel * inputs for the slots [first, last), and some of the spare ones.
inline void multiply(const Winograd& winograd, int first, int last, const float* inputs,
                     const float* HWY_RESTRICT kernel, float* products) {
  const int num_blocks = winograd.planes.num_blocks(), num_tiles = last - first;
  const Steps steps(winograd);
  inputs += first * block_channels;
  products += first * block_channels;
  for (int place = 0; place < Winograd::places; ++place) {
#if HWY_MAX_BYTES == 64
    if (winograd.planes.channels == block_channels) {
      multiply_resident(num_tiles, inputs, kernel, products);
      inputs += Winograd::tiles_place_size;
      kernel += winograd.kernel_place_size();
      products += Winograd::tiles_place_size;
      continue;
    }
#endif
    for (int out = 0; out < num_blocks;) {
      const float* k = kernel + out * winograd.kernel_block_size();
      float* p = products + out * Winograd::tiles_block_size;
      if (out + panel <= num_blocks) {
        multiply_panel<panel>(steps, num_tiles, inputs, k, p);
        out += panel;
      } else {
        multiply_panel<1>(steps, num_tiles, inputs, k, p);
        ++out;
      }
    }
    inputs += Winograd::tiles_place_size;
    kernel += winograd.kernel_place_size();
    products += Winograd::tiles_place_size;
  }
}

/// What a sum starts from.
enum class Start { zero, stored };

/// grad[block b][i][o] (+)= sum over tiles t of inputs[t][i] * y[b][t][o] at one place, for
/// `num_channels` channels i and `num_blocks` out blocks.
template <int num_channels, int num_blocks>
HWY_INLINE void add_gradient_products(const Steps& steps, Start start, int num_tiles,
                                      const float* HWY_RESTRICT inputs, const float* HWY_RESTRICT y,
                                      float* HWY_RESTRICT grad) {
  const FloatTag d;
  FloatVector sum[num_blocks][num_channels][pieces];
#pragma GCC unroll 16
  for (int b = 0; b < num_blocks; ++b)
#pragma GCC unroll 16
    for (int i = 0; i < num_channels; ++i)
#pragma GCC unroll 16
      for (int v = 0; v < pieces; ++v)
        sum[b][i][v] =
            start == Start::zero
                ? hn::Zero(d)
                : hn::Load(d, grad + b * steps.kernel_block + i * block_channels + v * lanes);

#pragma GCC unroll 1
  for (int t = 0; t < num_tiles; ++t, inputs += block_channels, y += block_channels) {
    FloatVector gradient[num_blocks][pieces];
#pragma GCC unroll 16
    for (int b = 0; b < num_blocks; ++b)
#pragma GCC unroll 16
      for (int v = 0; v < pieces; ++v)
        gradient[b][v] = hn::Load(d, y + b * Winograd::tiles_block_size + v * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < num_channels; ++i) {
      const FloatVector value = hn::Set(d, inputs[i]);
#pragma GCC unroll 16
      for (int b = 0; b < num_blocks; ++b)
#pragma GCC unroll 16
        for (int v = 0; v < pieces; ++v)
          sum[b][i][v] = hn::MulAdd(value, gradient[b][v], sum[b][i][v]);
    }
  }

#pragma GCC unroll 16
  for (int b = 0; b < num_blocks; ++b)
#pragma GCC unroll 16
    for (int i = 0; i < num_channels; ++i)
#pragma GCC unroll 16
      for (int v = 0; v < pieces; ++v)
        hn::Store(sum[b][i][v], d, grad + b * steps.kernel_block + i * block_channels + v * lanes);
}

/// `num_blocks` out blocks of one place, all input channels.
template <int num_blocks>
HWY_NOINLINE void add_gradient_panel(const Steps& steps, Start start, int num_tiles,
                                     const float* HWY_RESTRICT inputs, const float* HWY_RESTRICT y,
                                     float* HWY_RESTRICT grad) {
  constexpr int step = product_channels * panel / num_blocks;
  for (int i = 0; i < steps.num_channels; i += step)
    add_gradient_products<step, num_blocks>(
        steps, start, num_tiles,
        inputs + i / block_channels * Winograd::tiles_block_size + i % block_channels, y,
        grad + i * block_channels);
}

/// grad (+)= the transformed weight gradient of the tiles in slots [0, num_tiles): inputs, and
/// gradients y of their outputs, both transformed.
inline void add_transformed_products(const Winograd& winograd, Start start, int num_tiles,
                                     const float* HWY_RESTRICT inputs, const float* HWY_RESTRICT y,
                                     float* HWY_RESTRICT grad) {
  const int num_blocks = winograd.planes.num_blocks();
  const Steps steps(winograd);
  for (int place = 0; place < Winograd::places; ++place) {
    for (int out = 0; out < num_blocks;) {
      const float* of_block = y + out * Winograd::tiles_block_size;
      float* g = grad + out * winograd.kernel_block_size();
      if (out + panel <= num_blocks) {
        add_gradient_panel<panel>(steps, start, num_tiles, inputs, of_block, g);
        out += panel;
      } else {
        add_gradient_panel<1>(steps, start, num_tiles, inputs, of_block, g);
        ++out;
      }
    }
    inputs += Winograd::tiles_place_size;
    y += Winograd::tiles_place_size;
    grad += winograd.kernel_place_size();
  }
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once an instruction set
