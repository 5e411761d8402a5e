// As image_blocks.hpp, with products on tensor cores: convolutions from slot to slot are products
// of matrices, cut into tiles that a warp multiplies. Gradients: tensor_gradient.hpp.
//
// A slot is [band, width, chunks] of four channels each, four chunks a block of 16 channels. A
// convolution's tile has 16 pixels, in two runs of eight beside each other in a row, by 16 output
// channels; it sums over the 16 input channels of a step and the nine taps. Which row or column of
// a matrix stands for which pixel or channel is free as long as both factors agree, and chosen such
// that a thread loads and stores four channels at once. Chunks are permuted within a pixel so that
// no bank of shared memory is met twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "backend/cuda/kernel.hpp"
#include "backend/cuda/kernels/image_blocks.hpp"
#include "backend/cuda/kernels/tensor_core.hpp"

namespace revode::cuda {

inline constexpr int run_of_pixels = 8;
inline constexpr int channels_a_block = 16;

/// With more, a thread's registers would not do.
inline constexpr int rows_a_tile = 2;

template <Precision precision_>
struct TensorBlocks {
  static constexpr Precision precision = precision_;
  /// Of four words each, that a lane holds of the weights from 16 channels to 16, at one tap.
  static constexpr int fours_a_lane = precision == Precision::bf16 ? 1 : 2;

  int channels = 0;
  int height = 0;
  int width = 0;            ///< a multiple of run_of_pixels
  Divisor cluster_size{1};  ///< divides height
  Divisor num_chunks{1};  ///< of four channels, a multiple of 4; those behind `channels` hold zeros
  Divisor num_steps{1};   ///< of a convolution, each from a block of channels to all
  Divisor tile_columns{1};  ///< how tiles lie in a band, see TensorTile
  Divisor tile_rows{1};
  int gradient_warps = 0;  ///< at most, and at least 3; see TensorGradientTiles
  int num_threads = 0;

  REVODE_ON_DEVICE int band() const { return height / cluster_size; }
  REVODE_ON_DEVICE int band_size() const { return band() * width; }
  REVODE_ON_DEVICE int plane_size() const { return height * width; }
  REVODE_ON_DEVICE int num_fours() const { return band_size() * num_chunks; }
  REVODE_ON_DEVICE int slot_fours() const { return num_fours(); }
  REVODE_ON_DEVICE int row_fours() const { return width * num_chunks; }
  REVODE_ON_DEVICE int num_runs() const { return width / run_of_pixels; }
  REVODE_ON_DEVICE const Divisor& num_blocks() const { return num_steps; }
  /// Whether a row has an even number of runs.
  REVODE_ON_DEVICE bool is_wide() const { return num_runs() % 2 == 0; }
  /// Rows that tiles divide: those of the band, or else of half of it.
  REVODE_ON_DEVICE int tiled_rows() const { return is_wide() ? band() : (band() + 1) / 2; }
  /// Rows that tiles compute.
  REVODE_ON_DEVICE int padded_band() const { return tile_rows * rows_a_tile * (is_wide() ? 1 : 2); }
  /// Of a step: [9, num_blocks, fours_a_lane, lanes].
  REVODE_ON_DEVICE int step_fours() const { return 9 * num_blocks() * fours_a_lane * lanes_a_warp; }
  REVODE_ON_DEVICE int step_begin(int step) const { return step * step_fours(); }
  REVODE_ON_DEVICE int fours_of_step(int) const { return step_fours(); }
  REVODE_ON_DEVICE int coupling_fours() const { return num_steps * step_fours(); }

  /// Where chunk q of pixel x of a row is in the row. Pixels beside each other have their blocks of
  /// channels in different halves of the banks, and the next two the halves of these.
  REVODE_ON_DEVICE int index_in_row(int x, int q) const {
    const int block = num_blocks() % 2 == 0 ? q / 4 ^ (x & 1) : q / 4;
    return x * num_chunks + 4 * block + (q % 4 ^ (x & 2));
  }
  /// And of pixel p of the band in a slot; the width is a multiple of four.
  REVODE_ON_DEVICE int index(int p, int q) const { return index_in_row(p, q); }
  bool operator==(const TensorBlocks&) const = default;
};

/// Where the weight from channel `in` to channel `out` of two blocks is among those of a tap: lane
/// 4 column + in / 4 has four inputs of one output each.
struct WeightPlace {
  REVODE_ON_DEVICE WeightPlace(int in, int out)
      : tile(out % 4 / 2), lane(4 * (2 * (out / 4) + out % 2) + in / 4), input(in % 4) {}

  int tile;  ///< of eight outputs
  int lane;
  int input;
};

/// Which outputs are a warp's: some rows of two runs of pixels, and a block of channels. Both runs
/// lie in the same rows of a wide image, else half a band apart.
struct TensorTile {
  template <typename Image>
  REVODE_ON_DEVICE TensorTile(const Image& image, int thread)
      : group(thread % lanes_a_warp / 4), member(thread % 4) {
    const int place = thread / lanes_a_warp, above = place / image.tile_columns;
    const int column = place - above * image.tile_columns, first = above % image.tile_rows;
    block = above / image.tile_rows;
    channel = channels_a_block * block + 4 * member;
    REVODE_UNROLL for (int half = 0; half < 2; ++half) {
      x[half] = (image.is_wide() ? 2 * column + half : column) * run_of_pixels + group;
      row[half] = first * rows_a_tile + (image.is_wide() ? 0 : half * image.tiled_rows());
      const int left = (half == 1 ? image.band() : image.tiled_rows()) - row[half];
      num_rows[half] = block >= image.num_blocks() || left < 0 ? 0
                       : left < rows_a_tile                    ? left
                                                               : rows_a_tile;
    }
  }

  REVODE_ON_DEVICE bool is_empty() const { return num_rows[0] == 0; }
  /// As another lane of the warp sees it.
  REVODE_ON_DEVICE TensorTile of_lane(int lane) const {
    TensorTile other = *this;
    other.group = lane / 4;
    other.member = lane % 4;
    other.channel += 4 * (other.member - member);
    REVODE_UNROLL for (int half = 0; half < 2; ++half) other.x[half] += other.group - group;
    return other;
  }

  int group, member;  ///< of the lane: which pixel of a run, and which chunk of a block
  int block;          ///< of output channels
  int channel;        ///< the first of the lane's four
  int x[2];           ///< the lane's pixel, by run
  int row[2];         ///< the first of the band, by run
  int num_rows[2];    ///< by run
};

/// Of 16 channels, two tiles of eight; of each the lane's two channels at its pixel of both runs.
struct TensorSums {
  float of[rows_a_tile][2][4];

  /// Of every pixel, sums of the lane's output o <- value_of(o).
  template <typename Function>
  REVODE_ON_DEVICE void fill(Function&& value_of) {
    REVODE_UNROLL for (int o = 0; o < 4; ++o) {
      const float value = value_of(o);
      REVODE_UNROLL for (int r = 0; r < rows_a_tile; ++r)
          REVODE_UNROLL for (int half = 0; half < 2; ++half) of[r][o / 2][2 * half + o % 2] = value;
    }
  }
};

/// A slot of the block that has the row above the band, -1, or below it; such a block there must
/// be.
REVODE_ON_DEVICE inline const Four* slot_beside(const ClusterShared& shared, int slot_begin,
                                                int row) {
  return shared.of(row < 0 ? shared.rank - 1 : shared.rank + 1) + slot_begin;
}
/// And which of its rows that is.
template <typename Image>
REVODE_ON_DEVICE inline int row_beside(const Image& image, int row) {
  return row < 0 ? image.band() - 1 : 0;
}

/// Whether a row is beside the band, and another block's.
template <typename Image>
REVODE_ON_DEVICE inline bool is_beside(const Image& image, const ClusterShared& shared, int row) {
  return (row < 0 && shared.rank > 0) ||
         (row >= image.band() && shared.rank < image.cluster_size - 1);
}

/// What a lane holds of the inputs of a tile and a column kx of the kernel: its runs' pixels moved
/// by kx - 1, in the rows of the tile and those around it.
template <Precision precision>
struct InputWords {
  std::uint32_t of[rows_a_tile + 2][TensorBlocks<precision>::fours_a_lane][4];
};
/// And of the weights to the two tiles of eight outputs, at a tap: of inputs 4 member + i.
template <Precision precision>
struct WeightWords {
  static constexpr int words_a_tile = 2 * TensorBlocks<precision>::fours_a_lane;
  std::uint32_t of[2][words_a_tile];
};

/// Of factor times the block `step` of a slot's channels: column m of a product stands for chunk m,
/// which has two columns, or in bf16 two words.
template <Precision precision>
REVODE_ON_DEVICE InputWords<precision> load_inputs(const TensorBlocks<precision>& image,
                                                   const ClusterShared& shared, int slot_begin,
                                                   int step, const TensorTile& tile, int kx,
                                                   float factor) {
  InputWords<precision> words;
  const int stride = computed_once(image.row_fours()), band = image.band();
  REVODE_UNROLL for (int half = 0; half < 2; ++half) {
    const int x = tile.x[half] + kx - 1;
    const bool is_inside = kx == 1 || (x >= 0 && x < image.width);
    const int index = image.index_in_row(is_inside ? x : 0, 4 * step + tile.member);
    const int row = tile.row[half] - 1, at = computed_once(slot_begin + row * stride + index);
    Four in[rows_a_tile + 2];
    REVODE_UNROLL for (int r = 0; r < rows_a_tile + 2; ++r) {
      in[r] = Four{};
      if (is_inside && (r > 0 || row >= 0) && row + r < band) in[r] = shared.own[at + r * stride];
    }
    if (image.cluster_size > 1 && is_inside) {
      const int below = tile.num_rows[half] + 1;
      const auto beside = [&](int of_row) {
        return slot_beside(shared, slot_begin, of_row)[row_beside(image, of_row) * stride + index];
      };
      if (is_beside(image, shared, row)) in[0] = beside(row);
      if (is_beside(image, shared, row + below)) {
        const Four last = beside(row + below);
        REVODE_UNROLL for (int r = 1; r < rows_a_tile + 2; ++r) if (r == below) in[r] = last;
      }
    }
    // Of most calls it is 1.
    if (factor != 1) {
      REVODE_UNROLL for (int r = 0; r < rows_a_tile + 2; ++r) {
        REVODE_UNROLL for (int i = 0; i < 4; ++i) { in[r].of[i] *= factor; }
      }
    }
    REVODE_UNROLL for (int r = 0; r < rows_a_tile + 2; ++r) {
      if constexpr (precision == Precision::bf16) {
        words.of[r][0][half] = to_bf16_pair(in[r].of[0], in[r].of[1]);
        words.of[r][0][2 + half] = to_bf16_pair(in[r].of[2], in[r].of[3]);
      } else {
        REVODE_UNROLL for (int i = 0; i < 4; ++i) words.of[r][i / 2][i % 2 * 2 + half] =
            to_tf32(in[r].of[i]);
      }
    }
  }
  return words;
}

/// Of those of a tap and a block of outputs, [fours_a_lane, lanes].
template <Precision precision>
REVODE_ON_DEVICE WeightWords<precision> load_weights(const Four* weights, int lane) {
  WeightWords<precision> words;
  REVODE_UNROLL for (int k = 0; k < TensorBlocks<precision>::fours_a_lane; ++k)
      memcpy(&words.of[0][0] + 4 * k, weights + k * lanes_a_warp + lane, sizeof(Four));
  return words;
}

/// sums += K applied to factor times the block `step` of a slot's channels, of which `weights` are
/// the part. In the order of kx, ky and the inputs, whatever the tile.
template <Precision precision>
REVODE_ON_DEVICE void add_products(const TensorBlocks<precision>& image,
                                   const ClusterShared& shared, int slot_begin, int step,
                                   const Four* weights, const TensorTile& tile, float factor,
                                   TensorSums& sums) {
  constexpr int fours_a_lane = TensorBlocks<precision>::fours_a_lane;
  const int lane = 4 * tile.group + tile.member;
  const Four* const of_block = weights + tile.block * fours_a_lane * lanes_a_warp;
  const int tap_fours = image.num_blocks() * fours_a_lane * lanes_a_warp;
  // Not unrolled: with the loads of several columns under way, registers would not do.
  REVODE_UNROLL_BY(1)
  for (int kx = 0; kx < 3; ++kx) {
    const auto inputs = row_words(lane, [&](int of_lane) {
      return load_inputs(image, shared, slot_begin, step, tile.of_lane(of_lane), kx, factor);
    });
    REVODE_UNROLL for (int ky = 0; ky < 3; ++ky) {
      const auto kernel = column_words(lane, [&](int of_lane) {
        return load_weights<precision>(of_block + (3 * ky + kx) * tap_fours, of_lane);
      });
      REVODE_UNROLL for (int outputs = 0; outputs < 2;
                         ++outputs) REVODE_UNROLL for (int part = 0; part < fours_a_lane; ++part)
          REVODE_UNROLL for (int r = 0; r < rows_a_tile; ++r) multiply<precision>(
              inputs, kernel, [&](const auto& words) { return words.of[r + ky][part]; },
              [&](const auto& words) { return words.of[outputs] + 2 * part; }, sums.of[r][outputs]);
    }
  }
}

/// Calls f(pixel of the band, chunk, index in a slot, sums of its four channels) for each of the
/// lane's.
template <Precision precision, typename Function>
REVODE_ON_DEVICE void for_each_chunk(const TensorBlocks<precision>& image, const TensorTile& tile,
                                     const TensorSums& sums, Function&& f) {
  REVODE_UNROLL for (int r = 0; r < rows_a_tile; ++r)
      REVODE_UNROLL for (int half = 0; half < 2; ++half) {
    if (r >= tile.num_rows[half]) continue;
    const int p = (tile.row[half] + r) * image.width + tile.x[half], q = tile.channel / 4;
    f(p, q, image.index(p, q),
      Four{{sums.of[r][0][2 * half], sums.of[r][0][2 * half + 1], sums.of[r][1][2 * half],
            sums.of[r][1][2 * half + 1]}});
  }
}

/// Nothing lies around the pixels.
template <Precision precision>
REVODE_ON_DEVICE void clear_borders(const TensorBlocks<precision>&, int, int, Four*) {}

/// For every coupling the parts of weights as add_products() takes them, from kernel
/// [num_couplings, c, c, 3, 3].
template <Precision precision>
struct PackForTensorCores {
  static constexpr std::string_view name = "pack_for_tensor_cores";
  int num_couplings = 0;
  int channels = 0;
  int num_blocks = 0;
  const float* kernel = nullptr;
  Four* forward = nullptr;
  Four* adjoint = nullptr;  ///< null for the antisymmetric force

  REVODE_ON_DEVICE std::int64_t size() const {
    return std::int64_t{9} * num_couplings * num_blocks * num_blocks * channels_a_block *
           channels_a_block;
  }
  REVODE_ON_DEVICE void operator()(std::int64_t index) const {
    const int in = static_cast<int>(index % channels_a_block);
    const int out = static_cast<int>(index / channels_a_block % channels_a_block);
    const std::int64_t tile = index / channels_a_block / channels_a_block;
    const int block_out = static_cast<int>(tile % num_blocks);
    const int tap = static_cast<int>(tile / num_blocks % 9);
    const int block_in = static_cast<int>(tile / num_blocks / 9 % num_blocks);
    const std::int64_t coupling = tile / num_blocks / 9 / num_blocks, c = channels;
    const std::int64_t o = block_out * channels_a_block + out, i = block_in * channels_a_block + in;
    const bool is_inside = o < c && i < c;
    const float* const k = kernel + coupling * 9 * c * c;
    const float value = is_inside ? k[(o * c + i) * 9 + tap] : 0;
    const float transposed = is_inside ? k[(i * c + o) * 9 + 8 - tap] : 0;
    if (adjoint != nullptr) {
      put(forward, tile, in, out, value);
      put(adjoint, tile, in, out, transposed);
    } else {
      put(forward, tile, in, out, value - transposed);
    }
  }
  bool operator==(const PackForTensorCores&) const = default;
  Accesses accesses() const {
    const std::size_t fours = std::size_t{9} * num_couplings * num_blocks * num_blocks *
                              TensorBlocks<precision>::fours_a_lane * lanes_a_warp;
    return Accesses()
        .reads(kernel, std::size_t{9} * num_couplings * channels * channels)
        .writes(forward, fours)
        .writes(adjoint, fours);
  }

 private:
  REVODE_ON_DEVICE static void put(Four* to, std::int64_t tile, int in, int out, float value) {
    const WeightPlace place(in, out);
    Four* const of_tile = to + tile * TensorBlocks<precision>::fours_a_lane * lanes_a_warp;
    if constexpr (precision == Precision::bf16)
      reinterpret_cast<std::uint16_t*>(of_tile + place.lane)[4 * place.tile + place.input] =
          static_cast<std::uint16_t>(to_bf16_pair(value, 0));
    else
      of_tile[place.tile * lanes_a_warp + place.lane].of[place.input] =
          rounded_operand<precision>(value);
  }
};

}  // namespace revode::cuda
