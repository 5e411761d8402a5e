// The layout in which the kernels of a segment hold images: blocks of 16 channels, the channel of a
// block running fastest (nChw16c), with a border of one pixel of zeros around each plane.
//
// A tensor of a group is [image][block][height + 2][width + 2][16] floats and some slack behind it,
// because a tile may read (and drop) pixels beyond the end. Channels beyond the real ones are zero.
#pragma once

#include <cstddef>

namespace revode::cpu {

/// Channels of a block: the longest vector there is (AVX-512); shorter ones take it in pieces.
inline constexpr int block_channels = 16;

struct Planes {
  int channels = 0;
  int height = 0;
  int width = 0;

  int num_blocks() const { return (channels + block_channels - 1) / block_channels; }
  /// Real channels of a block.
  int channels_of_block(int block) const {
    const int left = channels - block * block_channels;
    return left < block_channels ? left : block_channels;
  }

  // All sizes in floats.
  std::size_t row_size() const { return static_cast<std::size_t>(width + 2) * block_channels; }
  std::size_t plane_size() const { return static_cast<std::size_t>(height + 2) * row_size(); }
  std::size_t image_size() const { return num_blocks() * plane_size(); }
  /// A tile of two rows by up to 16 pixels may begin at the last pixel.
  std::size_t slack() const { return row_size() + std::size_t{16} * block_channels; }
  std::size_t tensor_size(int num_images) const { return num_images * image_size() + slack(); }
  /// Pixel (y, x) of a block, relative to its image; -1 and height or width are the border.
  std::size_t pixel(int block, int y, int x) const {
    return block * plane_size() + (y + 1) * row_size() +
           static_cast<std::size_t>(x + 1) * block_channels;
  }

  /// An image without border: [block][height][width][16].
  std::size_t bare_image_size() const {
    return static_cast<std::size_t>(num_blocks()) * height * width * block_channels;
  }

  /// A kernel [out][in][3][3] packed as [out block][in block][ky][in 16][kx][out 16].
  std::size_t kernel_slice_size() const {  ///< of one out block, in block and ky
    return std::size_t{3} * block_channels * block_channels;
  }
  std::size_t packed_kernel_size() const {
    return std::size_t{3} * num_blocks() * num_blocks() * kernel_slice_size();
  }
  std::size_t packed_bias_size() const {
    return static_cast<std::size_t>(num_blocks()) * block_channels;
  }
};

}  // namespace revode::cpu
