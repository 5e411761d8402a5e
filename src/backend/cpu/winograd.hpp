// Sizes of the Winograd form F(4x4, 3x3) of a segment's convolutions: tiles of 4x4 outputs, each
// from 6x6 inputs, meet the kernel in 36 places of a transformed domain. Knows no arithmetic.
#pragma once

#include <algorithm>
#include <cstddef>

#include "backend/cpu/planes.hpp"

namespace revode::cpu {

struct Winograd {
  static constexpr int outputs = 4;  ///< pixels of a tile, each way
  static constexpr int inputs = 6;   ///< pixels that they are made of
  static constexpr int places = inputs * inputs;
  /// Places behind the last tile that a product may compute in vain (its tiles in a register).
  static constexpr int spare_tiles = 8;

  static constexpr int max_chunk_tiles = 64;

  explicit Winograd(const Planes& planes_in) : planes(planes_in) {}

  int tiles_a_row() const { return (planes.width + outputs - 1) / outputs; }
  int tiles_an_image() const { return (planes.height + outputs - 1) / outputs * tiles_a_row(); }

  /// Tiles that are transformed, multiplied and transformed back together: few enough that their
  /// transforms (two of 2304 bytes a tile and block) stay in an L2 cache of 1 MiB or little more
  /// beside the weights of a place, and enough (32) that these are worth their way into L1. The
  /// sums of weight gradients are cut there: the bits depend on it.
  int chunk_tiles() const {
    return std::clamp(max_chunk_tiles / planes.num_blocks() / 8 * 8, 32, max_chunk_tiles);
  }

  // All sizes in floats. Steps from place to place are an odd number of cache lines, so that the
  // 36 places of a tile fall into different sets of the cache.

  /// Transformed tiles: [block][36][max_chunk_tiles + spare][16]. Constant, for short addresses.
  static constexpr std::size_t tiles_place_size =
      std::size_t{max_chunk_tiles + spare_tiles + 1} * block_channels;
  static constexpr std::size_t tiles_block_size = places * tiles_place_size;
  std::size_t tiles_size() const { return planes.num_blocks() * tiles_block_size; }

  /// A transformed kernel: [36][out block][in][16].
  std::size_t kernel_block_size() const {
    return std::size_t{1} * planes.num_blocks() * block_channels * block_channels;
  }
  std::size_t kernel_place_size() const {
    return planes.num_blocks() * kernel_block_size() + block_channels;
  }
  std::size_t kernel_size() const { return places * kernel_place_size(); }

  /// Workspace: transformed inputs, products, transformed gradient of a kernel.
  std::size_t advance_workspace_size() const { return 2 * tiles_size(); }
  std::size_t retreat_workspace_size() const { return 2 * tiles_size() + kernel_size(); }

  Planes planes;
};

}  // namespace revode::cpu
