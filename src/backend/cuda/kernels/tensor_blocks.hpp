// As image_blocks.hpp, with products on tensor cores: convolutions from slot to slot and the
// gradients of kernels are products of matrices, cut into tiles that a warp multiplies.
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

/// Two numbers that are loaded as one.
struct alignas(8) Two {
  float of[2];
};

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
    if (factor != 1)
      REVODE_UNROLL for (int r = 0; r < rows_a_tile + 2; ++r)
          REVODE_UNROLL for (int i = 0; i < 4; ++i) in[r]
              .of[i] *= factor;
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

/// How a block divides the gradient of a kernel among its warps: a warp takes 16 outputs x 16
/// inputs x 3 taps of one kernel row over some rows of the band. What does not fit at once is done
/// in passes.
struct TensorGradientTiles {
  /// A lane's sums: 3 taps x 2 outputs x 4 inputs. A place more in each row of lanes keeps the
  /// threads that add them up from meeting in a bank.
  static constexpr int sums_a_lane = 3 * 2 * 4, row_of_lanes = lanes_a_warp + 1;
  /// Behind them, of each output the lanes' sums for the bias.
  static constexpr int sums_a_warp = sums_a_lane * row_of_lanes + channels_a_block * 4;
  static constexpr int sums_a_pair = channels_a_block * channels_a_block * 9;

  Divisor pairs_a_pass{1};  ///< of a block of outputs and one of inputs
  int rows_a_group = 0;
  Divisor num_groups{1};
  int num_passes = 0;

  TensorGradientTiles() = default;
  template <typename Image>
  explicit TensorGradientTiles(const Image& image) {
    const int num_pairs = image.num_blocks() * image.num_blocks();
    const int pairs = num_pairs < image.gradient_warps / 3 ? num_pairs : image.gradient_warps / 3;
    const int most_groups = image.gradient_warps / (3 * pairs);
    rows_a_group = (image.band() + most_groups - 1) / most_groups;
    num_groups = Divisor((image.band() + rows_a_group - 1) / rows_a_group);
    num_passes = (num_pairs + pairs - 1) / pairs;
    pairs_a_pass = Divisor(pairs);
  }

  REVODE_ON_DEVICE int num_phases() const { return 2 * num_passes; }
  REVODE_ON_DEVICE int num_tiles() const { return 3 * num_groups * pairs_a_pass; }
  REVODE_ON_DEVICE int sums_fours() const { return sums_a_warp * num_tiles() / 4; }
  REVODE_ON_DEVICE int tile_of(int pair, int group, int ky) const {
    return (pair * num_groups + group) * 3 + ky;
  }
};

/// What a thread keeps of a gradient from phase to phase.
struct NoSums {};

/// The lane's sums [tap][tile of inputs][output, input] of a product of matrices: outputs 2 group
/// and 2 group + 1, inputs 4 member + tile and 4 member + 2 + tile.
struct TensorGradientSums {
  float of[3][2][4];
  float bias[2];
};

/// What a lane holds of the factors of such a product: of gradients at outputs 2 group and
/// 2 group + 1, and of inputs, likewise, at the three taps of a kernel row; of pixels `member` and
/// `member + 4` of a run, or in bf16 of two runs.
struct OutputGradientWords {
  std::uint32_t of[4];
};
struct TapWords {
  std::uint32_t of[3][2][2];
};

/// Eight pixels beside each other of a row of the band.
struct PixelRun {
  int row = 0;
  int x = 0;

  REVODE_ON_DEVICE PixelRun next(int width) const {
    const bool is_last = x + run_of_pixels >= width;
    return {is_last ? row + 1 : row, is_last ? 0 : x + run_of_pixels};
  }
};

/// One block of outputs, one of inputs and a kernel row, over some rows of the band.
template <Precision precision>
struct GradientProducts {
  static constexpr int runs_a_product = precision == Precision::bf16 ? 2 : 1;

  const TensorBlocks<precision>& image;
  const ClusterShared& shared;
  const KernelGradient& gradient;
  int block_out, block_in, ky;
  int first_row, last_row;  ///< rows from last_row on count as zeros

  /// Where a lane loads from, behind where a run is, in Twos: the same for every run, as the order
  /// of chunks repeats every four pixels.
  struct LaneOffsets {
    int gradients;
    int taps[3];
    bool is_first, is_last;  ///< whether its pixels may be the first of a row, or the last
  };
  REVODE_ON_DEVICE LaneOffsets offsets_of(int lane) const {
    const auto offset = [&](int block, int dx) {
      return 2 * image.index_in_row(lane % 4 + dx, 4 * block + lane / 8) + lane / 4 % 2;
    };
    return {offset(block_out, 0),
            {offset(block_in, -1), offset(block_in, 0), offset(block_in, 1)},
            lane % 4 == 0,
            lane % 4 == 3};
  }

  REVODE_ON_DEVICE OutputGradientWords load_gradients(const PixelRun (&runs)[2],
                                                      const LaneOffsets& lane) const {
    OutputGradientWords words;
    REVODE_UNROLL for (int k = 0; k < runs_a_product; ++k) {
      Two at[2];
      REVODE_UNROLL for (int half = 0; half < 2; ++half) at[half] =
          load_gradient(runs[k], lane, half);
      REVODE_UNROLL for (int o = 0; o < 2; ++o) if constexpr (precision == Precision::bf16) {
        words.of[2 * k + o] = to_bf16_pair(at[0].of[o], at[1].of[o]);
      }
      else {
        words.of[o] = to_tf32(at[0].of[o]);
        words.of[2 + o] = to_tf32(at[1].of[o]);
      }
    }
    return words;
  }

  REVODE_ON_DEVICE TapWords load_taps(const PixelRun (&runs)[2], const LaneOffsets& lane) const {
    TapWords words;
    REVODE_UNROLL for (int k = 0; k < runs_a_product; ++k) {
      Two at[3][2];
      load_taps(runs[k], lane, at);
      const float factor = gradient.factor;
      if (factor != 1)
        REVODE_UNROLL for (int kx = 0; kx < 3; ++kx) REVODE_UNROLL for (int i = 0; i < 2; ++i) {
          at[kx][0].of[i] *= factor;
          at[kx][1].of[i] *= factor;
        }
      REVODE_UNROLL for (int kx = 0; kx < 3; ++kx) REVODE_UNROLL for (int i = 0; i < 2; ++i) {
        const float first = at[kx][0].of[i], second = at[kx][1].of[i];
        if constexpr (precision == Precision::bf16) {
          words.of[kx][i][k] = to_bf16_pair(first, second);
        } else {
          words.of[kx][i][0] = to_tf32(first);
          words.of[kx][i][1] = to_tf32(second);
        }
      }
    }
    return words;
  }

  /// Calls f(runs of a product) for all of them.
  template <typename Function>
  REVODE_ON_DEVICE void for_each_product(Function&& f) const {
    PixelRun run{first_row, 0};
    while (run.row < last_row) {
      const PixelRun after = run.next(image.width);
      const PixelRun runs[2] = {run, after};
      f(runs);
      run = runs_a_product == 2 ? after.next(image.width) : after;
    }
  }

  REVODE_ON_DEVICE void add(int lane, TensorGradientSums& sums) const {
    const LaneOffsets own = offsets_of(lane);
    const auto of = [&](int of_lane) { return of_lane == lane ? own : offsets_of(of_lane); };
    for_each_product([&](const PixelRun(&runs)[2]) {
      const auto gradients =
          row_words(lane, [&](int of_lane) { return load_gradients(runs, of(of_lane)); });
      const auto taps =
          column_words(lane, [&](int of_lane) { return load_taps(runs, of(of_lane)); });
      REVODE_UNROLL for (int kx = 0; kx < 3; ++kx) REVODE_UNROLL for (int i = 0; i < 2; ++i)
          multiply<precision>(
              gradients, taps, [](const auto& words) { return words.of; },
              [&](const auto& words) { return words.of[kx][i]; }, sums.of[kx][i]);
    });
  }

  /// The sums of the lane's outputs over its pixels.
  REVODE_ON_DEVICE void add_bias(int lane, TensorGradientSums& sums) const {
    const LaneOffsets own = offsets_of(lane);
    for_each_product([&](const PixelRun(&runs)[2]) {
      REVODE_UNROLL for (int k = 0; k < runs_a_product; ++k)
          REVODE_UNROLL for (int half = 0; half < 2; ++half) {
        const Two at = load_gradient(runs[k], own, half);
        REVODE_UNROLL for (int o = 0; o < 2; ++o) sums.bias[o] += at.of[o];
      }
    });
  }

 private:
  /// Where a slot has a run, in Twos, and how far half of a run goes.
  REVODE_ON_DEVICE int place_of(int row, int x) const {
    return 2 * (row * image.row_fours() + x * image.num_chunks);
  }
  REVODE_ON_DEVICE int half_run() const { return 2 * 4 * image.num_chunks; }
  /// Of the outputs' block, at pixel `member` of half a run.
  REVODE_ON_DEVICE Two load_gradient(const PixelRun& run, const LaneOffsets& lane, int half) const {
    const int at = place_of(run.row, run.x) + lane.gradients + half * half_run();
    Two value{};
    if (run.row < last_row)
      value = reinterpret_cast<const Two*>(shared.own + gradient.grad_out_begin)[at];
    return value;
  }

  /// Of the inputs' block, around that pixel, for both halves.
  REVODE_ON_DEVICE void load_taps(const PixelRun& run, const LaneOffsets& lane,
                                  Two (&at)[3][2]) const {
    const int row = run.row + ky - 1;
    const bool is_own = row >= 0 && row < image.band();
    const bool is_others = image.cluster_size > 1 && is_beside(image, shared, row);
    const auto load_from = [&](const Four* slot, int row_there, bool is_there) {
      const auto* const twos = reinterpret_cast<const Two*>(slot);
      const int first = computed_once(place_of(row_there, run.x));
      REVODE_UNROLL for (int kx = 0; kx < 3; ++kx)
          REVODE_UNROLL for (int half = 0; half < 2; ++half) {
        bool is_inside = is_there;
        if (kx == 0 && half == 0) is_inside = is_inside && !(lane.is_first && run.x == 0);
        if (kx == 2 && half == 1)
          is_inside = is_inside && !(lane.is_last && run.x + run_of_pixels == image.width);
        at[kx][half] = Two{};
        if (is_inside) at[kx][half] = twos[first + lane.taps[kx] + half * half_run()];
      }
    };
    load_from(shared.own + gradient.in_begin, row, is_own && run.row < last_row);
    if (is_others && run.row < last_row)
      load_from(slot_beside(shared, gradient.in_begin, row), row_beside(image, row), true);
  }
};

/// sums [num_tiles, sums_a_warp] <- of the tiles of a pass.
template <Precision precision>
REVODE_ON_DEVICE void sum_gradient(const TensorBlocks<precision>& image,
                                   const TensorGradientTiles& tiles, const ClusterShared& shared,
                                   int pass, int thread, const KernelGradient& gradient,
                                   float* sums) {
  using Tiles = TensorGradientTiles;
  const int warp = thread / lanes_a_warp, lane = thread % lanes_a_warp;
  if (warp >= tiles.num_tiles()) return;
  const int ky = warp % 3, group = warp / 3 % tiles.num_groups;
  const int pair = pass * tiles.pairs_a_pass + warp / 3 / tiles.num_groups;
  if (pair >= image.num_blocks() * image.num_blocks()) return;
  TensorGradientSums own{};
  const int first_row = group * tiles.rows_a_group;
  const int left = image.band() - first_row;
  const int num_rows = left < tiles.rows_a_group ? left : tiles.rows_a_group;
  const GradientProducts<precision> products{.image = image,
                                             .shared = shared,
                                             .gradient = gradient,
                                             .block_out = pair / image.num_blocks(),
                                             .block_in = pair % image.num_blocks(),
                                             .ky = ky,
                                             .first_row = first_row,
                                             .last_row = first_row + num_rows};
  products.add(lane, own);
  if (gradient.bias != nullptr && ky == 1 && products.block_in == 0) products.add_bias(lane, own);
  float* const to = sums + warp * Tiles::sums_a_warp;
  REVODE_UNROLL for (int kx = 0; kx < 3; ++kx) REVODE_UNROLL for (int o = 0; o < 2; ++o)
      REVODE_UNROLL for (int i = 0; i < 4; ++i)
          to[(8 * kx + 4 * o + i) * Tiles::row_of_lanes + lane] = own.of[kx][i % 2][2 * o + i / 2];
  REVODE_UNROLL for (int o = 0; o < 2; ++o)
      to[Tiles::sums_a_lane * Tiles::row_of_lanes + 4 * (2 * (lane / 4) + o) + lane % 4] =
          own.bias[o];
}

/// The gradient += what sum_gradient() left, each entry once; neighbours in the kernel by threads
/// beside each other.
template <Precision precision>
REVODE_ON_DEVICE void add_gradient(const TensorBlocks<precision>& image,
                                   const TensorGradientTiles& tiles, int pass, int thread,
                                   const KernelGradient& gradient, const float* sums) {
  using Tiles = TensorGradientTiles;
  const Divisor& num_blocks = image.num_blocks();
  const int c = image.channels;
  const int first = pass * tiles.pairs_a_pass, left = num_blocks * num_blocks - first;
  const int most = tiles.pairs_a_pass, num_here = left < most ? left : most;
  const auto over_groups = [&](int pair, int ky, int at) {
    float sum = 0;
    for (int group = 0; group < tiles.num_groups; ++group)
      sum += sums[tiles.tile_of(pair, group, ky) * Tiles::sums_a_warp + at];
    return sum;
  };
  for (int k = thread; k < num_here * Tiles::sums_a_pair; k += image.num_threads) {
    const int pair = k / Tiles::sums_a_pair, rest = k % Tiles::sums_a_pair;
    const int o = rest / 144, i = rest % 144 / 9, tap = rest % 9;
    const int out = (first + pair) / num_blocks * channels_a_block + o;
    const int in = (first + pair) % num_blocks * channels_a_block + i;
    if (out >= c || in >= c) continue;
    const int lane = 4 * (o / 2) + i / 4;
    const float value = over_groups(
        pair, tap / 3, (8 * (tap % 3) + 4 * (o % 2) + i % 4) * Tiles::row_of_lanes + lane);
    contribute(gradient, value, gradient.kernel + (out * c + in) * 9 + tap);
    if (gradient.is_antisymmetric)
      contribute(gradient, -value, gradient.kernel + (in * c + out) * 9 + 8 - tap);
  }
  if (gradient.bias == nullptr) return;
  for (int k = thread; k < num_here * channels_a_block; k += image.num_threads) {
    const int pair = k / channels_a_block, o = k % channels_a_block;
    const int out = (first + pair) / num_blocks * channels_a_block + o;
    if ((first + pair) % num_blocks != 0 || out >= c) continue;
    float sum = 0;
    for (int member = 0; member < 4; ++member)
      sum += over_groups(pair, 1, Tiles::sums_a_lane * Tiles::row_of_lanes + 4 * o + member);
    contribute(gradient, sum, gradient.bias + out);
  }
}

/// Phase `phase` of a gradient, of tiles.num_phases().
template <Precision precision>
REVODE_ON_DEVICE void take_gradient_phase(const TensorBlocks<precision>& image,
                                          const TensorGradientTiles& tiles,
                                          const ClusterShared& shared, int phase, int thread,
                                          const KernelGradient& gradient, NoSums&, float* sums) {
  if (phase % 2 == 0)
    sum_gradient(image, tiles, shared, phase / 2, thread, gradient, sums);
  else
    add_gradient(image, tiles, phase / 2, thread, gradient, sums);
}

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

/// Products of operands rounded to a precision, which takes the factor too.
template <Precision precision>
struct TensorProducts {
  using Image = TensorBlocks<precision>;
  using Tile = TensorTile;
  using Sums = TensorSums;
  using GradientTiles = TensorGradientTiles;
  using GradientSums = NoSums;
  REVODE_ON_DEVICE static float factor_left(float) { return 1; }
};

}  // namespace revode::cuda
