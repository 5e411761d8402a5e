// Between [c, height, width] images and blocked planes with a border. Compiled once an instruction
// set.
#if defined(REVODE_CPU_PACK_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef REVODE_CPU_PACK_INL_HPP_
#undef REVODE_CPU_PACK_INL_HPP_
#else
#define REVODE_CPU_PACK_INL_HPP_
#endif

#include <algorithm>

#include "backend/cpu/planes.hpp"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Channels that are moved together; the scalar fallback has no vectors to transpose.
inline constexpr int channels_together = HWY_TARGET == HWY_SCALAR ? 1 : 4;

using QuadTag = hn::CappedTag<float, 4>;
using Quad = hn::Vec<QuadTag>;

/// Transposes 4 x 4: rows a, b, c, d become its columns.
HWY_INLINE void transpose([[maybe_unused]] Quad& a, [[maybe_unused]] Quad& b,
                          [[maybe_unused]] Quad& c, [[maybe_unused]] Quad& d) {
#if HWY_TARGET != HWY_SCALAR
  const QuadTag tag;
  const Quad ac_low = hn::InterleaveLower(tag, a, c), ac_high = hn::InterleaveUpper(tag, a, c);
  const Quad bd_low = hn::InterleaveLower(tag, b, d), bd_high = hn::InterleaveUpper(tag, b, d);
  a = hn::InterleaveLower(tag, ac_low, bd_low);
  b = hn::InterleaveUpper(tag, ac_low, bd_low);
  c = hn::InterleaveLower(tag, ac_high, bd_high);
  d = hn::InterleaveUpper(tag, ac_high, bd_high);
#endif
}

/// The border of every plane of a group <- 0.
inline void clear_border(const Planes& planes, int num_images, float* tensor) {
  const std::size_t row_size = planes.row_size();
  for (int plane = 0; plane < num_images * planes.num_blocks(); ++plane) {
    float* top = tensor + plane * planes.plane_size();
    std::fill_n(top, row_size, 0.0f);
    std::fill_n(top + planes.plane_size() - row_size, row_size, 0.0f);
    for (int y = 1; y <= planes.height; ++y) {
      std::fill_n(top + y * row_size, block_channels, 0.0f);
      std::fill_n(top + (y + 1) * row_size - block_channels, block_channels, 0.0f);
    }
  }
}

/// Calls quad(image plane of four channels, place among blocked pixels, pixels of a row) for each
/// row of four whole channels and single(...) for each row of a channel that is left over.
template <typename QuadFunction, typename SingleFunction>
void for_each_channel_row(const Planes& planes, QuadFunction&& quad, SingleFunction&& single) {
  const std::size_t plane = static_cast<std::size_t>(planes.height) * planes.width;
  for (int channel = 0; channel < planes.channels;) {
    const bool whole = channels_together == 4 && channel + 4 <= planes.channels;
    for (int y = 0; y < planes.height; ++y) {
      const std::size_t bare = channel * plane + static_cast<std::size_t>(y) * planes.width;
      const std::size_t blocked =
          planes.pixel(channel / block_channels, y, 0) + channel % block_channels;
      if (whole) {
        quad(bare, blocked);
      } else {
        single(bare, blocked);
      }
    }
    channel += whole ? 4 : 1;
  }
}

/// images [num_images, c, height, width] -> tensor; its border and spare channels are cleared.
inline void pack_images(const Planes& planes, int num_images, const float* images, float* tensor) {
  const QuadTag tag;
  const std::size_t plane = static_cast<std::size_t>(planes.height) * planes.width;
  clear_border(planes, num_images, tensor);
  if (planes.channels % block_channels != 0) {
    for (int image = 1; image <= num_images; ++image)
      std::fill_n(tensor + image * planes.image_size() - planes.plane_size(), planes.plane_size(),
                  0.0f);
  }
  for (int image = 0; image < num_images; ++image) {
    const float* from = images + image * planes.channels * plane;
    float* to = tensor + image * planes.image_size();
    const auto single = [&](std::size_t bare, std::size_t blocked) HWY_ATTR {
      for (int x = 0; x < planes.width; ++x) to[blocked + x * block_channels] = from[bare + x];
    };
    const auto quad = [&](std::size_t bare, std::size_t blocked) HWY_ATTR {
      int x = 0;
      for (; x + 4 <= planes.width; x += 4) {
        const float* in = from + bare + x;
        Quad a = hn::LoadU(tag, in), b = hn::LoadU(tag, in + plane);
        Quad c = hn::LoadU(tag, in + 2 * plane), d = hn::LoadU(tag, in + 3 * plane);
        transpose(a, b, c, d);
        float* out = to + blocked + x * block_channels;
        hn::Store(a, tag, out);
        hn::Store(b, tag, out + block_channels);
        hn::Store(c, tag, out + 2 * block_channels);
        hn::Store(d, tag, out + 3 * block_channels);
      }
      for (; x < planes.width; ++x)
        for (int k = 0; k < 4; ++k)
          to[blocked + x * block_channels + k] = from[bare + x + k * plane];
    };
    for_each_channel_row(planes, quad, single);
  }
}

/// tensor -> images [num_images, c, height, width].
inline void unpack_images(const Planes& planes, int num_images, const float* tensor,
                          float* images) {
  const QuadTag tag;
  const std::size_t plane = static_cast<std::size_t>(planes.height) * planes.width;
  for (int image = 0; image < num_images; ++image) {
    const float* from = tensor + image * planes.image_size();
    float* to = images + image * planes.channels * plane;
    const auto single = [&](std::size_t bare, std::size_t blocked) HWY_ATTR {
      for (int x = 0; x < planes.width; ++x) to[bare + x] = from[blocked + x * block_channels];
    };
    const auto quad = [&](std::size_t bare, std::size_t blocked) HWY_ATTR {
      int x = 0;
      for (; x + 4 <= planes.width; x += 4) {
        const float* in = from + blocked + x * block_channels;
        Quad a = hn::Load(tag, in), b = hn::Load(tag, in + block_channels);
        Quad c = hn::Load(tag, in + 2 * block_channels);
        Quad d = hn::Load(tag, in + 3 * block_channels);
        transpose(a, b, c, d);
        float* out = to + bare + x;
        hn::StoreU(a, tag, out);
        hn::StoreU(b, tag, out + plane);
        hn::StoreU(c, tag, out + 2 * plane);
        hn::StoreU(d, tag, out + 3 * plane);
      }
      for (; x < planes.width; ++x)
        for (int k = 0; k < 4; ++k)
          to[bare + x + k * plane] = from[blocked + x * block_channels + k];
    };
    for_each_channel_row(planes, quad, single);
  }
}

/// Copies the pixels of a group out of a tensor into images without border, or back. The border of
/// the tensor is left alone.
inline void store_bare(const Planes& planes, int num_images, const float* tensor, float* bare) {
  const std::size_t row = static_cast<std::size_t>(planes.width) * block_channels;
  for (int plane = 0; plane < num_images * planes.num_blocks(); ++plane)
    for (int y = 0; y < planes.height; ++y, bare += row)
      std::copy_n(tensor + plane * planes.plane_size() + planes.pixel(0, y, 0), row, bare);
}
inline void load_bare(const Planes& planes, int num_images, const float* bare, float* tensor) {
  const std::size_t row = static_cast<std::size_t>(planes.width) * block_channels;
  for (int plane = 0; plane < num_images * planes.num_blocks(); ++plane)
    for (int y = 0; y < planes.height; ++y, bare += row)
      std::copy_n(bare, row, tensor + plane * planes.plane_size() + planes.pixel(0, y, 0));
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once an instruction set
