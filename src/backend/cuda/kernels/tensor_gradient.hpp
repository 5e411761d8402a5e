// Gradients of kernels on tensor cores, from images that lie as tensor_blocks.hpp says: products of
// matrices over pixels.
#pragma once

#include <cstdint>

#include "backend/cuda/kernels/tensor_blocks.hpp"

namespace revode::cuda {

/// Two numbers that are loaded as one.
struct alignas(8) Two {
  float of[2];
};

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
  bool operator==(const TensorGradientTiles&) const = default;
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
