// An image in the shared memory of a block, or in bands of rows in those of a cluster of blocks,
// and what its threads do with it: convolutions from slot to slot, and the gradients of kernels.
//
// A slot has a plane [band, width + 1] for each chunk of four channels. Its last column is zero and
// stands for what is beside either end of a row; before the planes is a row of zeros, for what is
// above and below the image, as do rows behind the band that fill its last tile. So nothing is
// asked about borders where pixels are read. The planes are an odd number of fours apart: threads
// that take pixels beside each other, or chunks beside each other, meet no bank of shared memory
// twice. A thread computes 4 rows x channels_a_thread outputs of a convolution.
#pragma once

#include <cstdint>

#include "backend/cuda/kernel.hpp"

#ifdef __CUDA_ARCH__
#define REVODE_UNROLL _Pragma("unroll")
#define REVODE_UNROLL_BY(times) _Pragma(REVODE_TEXT(unroll times))
#define REVODE_TEXT(...) #__VA_ARGS__
#else
#define REVODE_UNROLL
#define REVODE_UNROLL_BY(times)
#endif

namespace revode::cuda {

inline constexpr int rows_a_thread = 4;

/// Threads of a block at most: with more, their registers would not do.
inline constexpr int most_threads_of_images = 512;

struct ImageBlocks {
  int channels = 0;
  int height = 0;
  Divisor width{1};
  Divisor cluster_size{1};  ///< divides height, into bands of whole tiles
  Divisor tile_rows{1};     ///< of a band
  Divisor num_chunks{1};    ///< of four channels; those behind `channels` hold zeros
  int chunks_a_step = 1;    ///< whose weights are in shared memory together
  Divisor num_steps{1};     ///< of a convolution
  int gradient_rounds = 1;  ///< see GradientTiles
  int num_threads = 0;

  REVODE_ON_DEVICE int band() const { return height / cluster_size; }
  REVODE_ON_DEVICE int band_size() const { return band() * width; }
  REVODE_ON_DEVICE int plane_size() const { return height * width; }
  /// Rows that tiles compute.
  REVODE_ON_DEVICE int padded_band() const { return tile_rows * rows_a_thread; }
  /// Of the band, without borders.
  REVODE_ON_DEVICE int num_fours() const { return band_size() * num_chunks; }
  REVODE_ON_DEVICE int row_fours() const { return width + 1; }
  REVODE_ON_DEVICE int plane_fours() const { return (padded_band() * row_fours()) | 1; }
  /// With the row of zeros and a zero at each end of it.
  REVODE_ON_DEVICE int slot_fours() const { return width + 2 + num_chunks * plane_fours(); }
  REVODE_ON_DEVICE int padded_channels() const { return 4 * num_chunks; }
  /// The weights that lead from a chunk to all outputs: [num_chunks, 4, 9, 4].
  REVODE_ON_DEVICE int weight_fours() const { return 9 * padded_channels(); }
  REVODE_ON_DEVICE int chunks_of_step(int step) const {
    const int left = num_chunks - step * chunks_a_step;
    return left < chunks_a_step ? left : chunks_a_step;
  }
  /// Room for the weights of a step; where a step's begin in those of a coupling, and how many they
  /// are.
  REVODE_ON_DEVICE int step_fours() const { return chunks_a_step * weight_fours(); }
  REVODE_ON_DEVICE int step_begin(int step) const { return step * step_fours(); }
  REVODE_ON_DEVICE int fours_of_step(int step) const {
    return chunks_of_step(step) * weight_fours();
  }
  REVODE_ON_DEVICE int coupling_fours() const { return num_chunks * weight_fours(); }

  /// Where chunk q of a pixel of the band is in a slot; column -1 is zero, as is column `width`.
  REVODE_ON_DEVICE int index(int row, int x, int q) const {
    return width + 2 + q * plane_fours() + row * row_fours() + x;
  }
  /// Of the p-th pixel.
  REVODE_ON_DEVICE int index(int p, int q) const { return index(p / width, p % width, q); }
  bool operator==(const ImageBlocks&) const = default;
};

/// Which outputs are a thread's: rows from `row` of its block's band on, column x, channels from
/// `channel` on.
template <int channels_a_thread>
struct OutputTile {
  REVODE_ON_DEVICE OutputTile(const ImageBlocks& image, int thread) {
    const int column = thread / image.width, tile = column / image.tile_rows;
    x = thread - column * image.width;
    row = (column - tile * image.tile_rows) * rows_a_thread;
    channel = tile * channels_a_thread;
    num_rows = channel >= image.padded_channels()   ? 0
               : image.band() - row < rows_a_thread ? image.band() - row
                                                    : rows_a_thread;
  }

  int x, row, channel;
  int num_rows;  ///< 0 where the thread has none

  REVODE_ON_DEVICE bool is_empty() const { return num_rows == 0; }
};

template <int channels_a_thread>
struct OutputSums {
  float of[rows_a_thread][channels_a_thread];

  /// Of every row, sums of output o <- value_of(o).
  template <typename Function>
  REVODE_ON_DEVICE void fill(Function&& value_of) {
    REVODE_UNROLL for (int o = 0; o < channels_a_thread; ++o) {
      const float value = value_of(o);
      REVODE_UNROLL for (int r = 0; r < rows_a_thread; ++r) of[r][o] = value;
    }
  }
};

/// Slots [num_slots] of a block <- zeros where no pixel is.
REVODE_ON_DEVICE inline void clear_borders(const ImageBlocks& image, int num_slots, int thread,
                                           Four* slots) {
  for (int k = thread; k < num_slots * image.slot_fours(); k += image.num_threads) {
    const int in_planes = k % image.slot_fours() - (image.width + 2);
    const int in_plane = in_planes % image.plane_fours();
    if (in_planes < 0 || in_plane >= image.band() * image.row_fours() ||
        in_plane % image.row_fours() == image.width)
      slots[k] = Four{};
  }
}

/// A row of a slot's planes.
struct Row {
  const Four* column_0;  ///< in the plane of one chunk
  int to_next_chunk;     ///< zeros are all chunks'
};

/// Row -1 to band() of a block's band: the first and the last are of the blocks beside it, or zeros
/// outside of the image. Slots begin at the same place of each block's memory.
REVODE_ON_DEVICE inline Row row_of(const ImageBlocks& image, const ClusterShared& shared,
                                   int slot_begin, int row, int q) {
  const int band = image.band();
  const bool is_above = row < 0, is_below = row >= band;
  if (is_above ? shared.rank == 0 : is_below && shared.rank == image.cluster_size - 1)
    return {shared.own + slot_begin + 1, 0};
  const Four* const slot = (is_above   ? shared.of(shared.rank - 1)
                            : is_below ? shared.of(shared.rank + 1)
                                       : shared.own) +
                           slot_begin;
  const int there = is_above ? row + band : is_below ? row - band : row;
  return {slot + image.index(there, 0, q), image.plane_fours()};
}

/// As row_of(), where a cluster has one block: the compiler sees whose memory it is.
REVODE_ON_DEVICE inline Row row_of_one(const ImageBlocks& image, const ClusterShared& shared,
                                       int slot_begin, int row, int q) {
  const bool is_inside = row >= 0 && row < image.band();
  return {shared.own + slot_begin + (is_inside ? image.index(row, 0, q) : 1),
          is_inside ? image.plane_fours() : 0};
}

/// sums += from the tile's column of the six rows that the tile's four rows need.
template <int channels_a_thread>
REVODE_ON_DEVICE void add_products_of_rows(const Four* const (&rows)[rows_a_thread + 2],
                                           const Four* weights,
                                           OutputSums<channels_a_thread>& sums) {
  REVODE_UNROLL for (int kx = 0; kx < 3; ++kx) {
    Four column[rows_a_thread + 2];
    REVODE_UNROLL for (int r = 0; r < rows_a_thread + 2; ++r) column[r] = rows[r][kx - 1];
    REVODE_UNROLL for (int ky = 0; ky < 3; ++ky) REVODE_UNROLL for (int i = 0; i < 4; ++i) {
      REVODE_UNROLL for (int part = 0; part < channels_a_thread / 4; ++part) {
        const Four w = weights[(part * 4 + i) * 9 + ky * 3 + kx];
        REVODE_UNROLL for (int r = 0; r < rows_a_thread; ++r)
            REVODE_UNROLL for (int o = 0; o < 4; ++o) {
          float& sum = sums.of[r][4 * part + o];
          sum = multiply_add(w.of[o], column[r + ky].of[i], sum);
        }
      }
    }
  }
}

/// sums += K applied to the chunks of a step, of which `weights` are the parts; the factor is left
/// to whoever takes the sums.
template <int channels_a_thread>
REVODE_ON_DEVICE void add_products(const ImageBlocks& image, const ClusterShared& shared,
                                   int slot_begin, int step, const Four* weights,
                                   const OutputTile<channels_a_thread>& tile, float,
                                   OutputSums<channels_a_thread>& sums) {
  constexpr int last = rows_a_thread + 1;
  const int first_chunk = step * image.chunks_a_step, num_chunks = image.chunks_of_step(step);
  const Four* of_tile = weights + tile.channel * 9;
  const Four* rows[last + 1];
  const Four* const first = shared.own + slot_begin + image.index(tile.row, tile.x, first_chunk);
  REVODE_UNROLL for (int r = 1; r < last; ++r) rows[r] = first + (r - 1) * image.row_fours();
  const auto add_all = [&](const Row& above, const Row& below) {
    rows[0] = above.column_0 + tile.x;
    rows[last] = below.column_0 + tile.x;
    for (int left = num_chunks; left > 0; --left, of_tile += image.weight_fours()) {
      add_products_of_rows(rows, of_tile, sums);
      rows[0] += above.to_next_chunk;
      REVODE_UNROLL for (int r = 1; r < last; ++r) rows[r] += image.plane_fours();
      rows[last] += below.to_next_chunk;
    }
  };
  // The compiler must see where only the block's own memory is read.
  const int row_below = tile.row + rows_a_thread;
  if (image.cluster_size == 1)
    add_all(row_of_one(image, shared, slot_begin, tile.row - 1, first_chunk),
            row_of_one(image, shared, slot_begin, row_below, first_chunk));
  else
    add_all(row_of(image, shared, slot_begin, tile.row - 1, first_chunk),
            row_of(image, shared, slot_begin, row_below, first_chunk));
}

/// Calls f(pixel of the band, chunk, index in a slot, sums of its four channels) for each chunk of
/// the tile.
template <int channels_a_thread, typename Function>
REVODE_ON_DEVICE void for_each_chunk(const ImageBlocks& image,
                                     const OutputTile<channels_a_thread>& tile,
                                     const OutputSums<channels_a_thread>& sums, Function&& f) {
  REVODE_UNROLL for (int r = 0; r < rows_a_thread; ++r) {
    if (r >= tile.num_rows) continue;
    const int p = (tile.row + r) * image.width + tile.x;
    REVODE_UNROLL for (int part = 0; part < channels_a_thread / 4; ++part) {
      Four values;
      REVODE_UNROLL for (int o = 0; o < 4; ++o) values.of[o] = sums.of[r][4 * part + o];
      const int q = tile.channel / 4 + part;
      f(p, q, image.index(tile.row + r, tile.x, q), values);
    }
  }
}

/// A slot <- the block's band of an image [channels, height, width], and back.
template <typename Image>
REVODE_ON_DEVICE void take_band(const Image& image, int rank, int thread, const float* from,
                                Four* slot) {
  for (int k = thread; k < image.num_fours(); k += image.num_threads) {
    const int p = k % image.band_size(), q = k / image.band_size();
    Four values;
    REVODE_UNROLL for (int i = 0; i < 4; ++i) values.of[i] =
        4 * q + i < image.channels
            ? from[(4 * q + i) * image.plane_size() + rank * image.band_size() + p]
            : 0;
    slot[image.index(p, q)] = values;
  }
}
template <typename Image>
REVODE_ON_DEVICE void bring_back_band(const Image& image, int rank, int thread, const Four* slot,
                                      float* to) {
  for (int k = thread; k < image.num_fours(); k += image.num_threads) {
    const int p = k % image.band_size(), q = k / image.band_size();
    const Four values = slot[image.index(p, q)];
    REVODE_UNROLL for (int i = 0; i < 4; ++i) if (4 * q + i < image.channels)
        to[(4 * q + i) * image.plane_size() + rank * image.band_size() + p] = values.of[i];
  }
}

/// The weights of all couplings, coupling_fours() each.
struct BlockWeights {
  const Four* forward = nullptr;  ///< of K, or of K - K^T
  const Four* adjoint = nullptr;  ///< of K^T; null for the antisymmetric force
  const float* bias = nullptr;    ///< [num_couplings, channels]

  /// Of a step.
  template <typename Image>
  REVODE_ON_DEVICE static void fetch(const Image& image, int thread, int step, const Four* parts,
                                     Four* to) {
    const int size = image.fours_of_step(step);
    for (int k = thread; k < size; k += image.num_threads) copy_by_next_phase(to + k, parts + k);
  }
  bool operator==(const BlockWeights&) const = default;
};

/// How a block divides the gradient of a kernel among its threads: a thread takes 4 outputs x 4
/// inputs x 3 taps of one kernel row over some rows of the band. What does not fit at once is done
/// in passes. The sums then go through shared memory in rounds, some outputs of the 4 each.
struct GradientTiles {
  Divisor pairs_a_pass{1};  ///< of a chunk of outputs and a chunk of inputs
  int rows_a_group = 0;
  int num_groups = 0;
  int num_passes = 0;
  Divisor num_rounds{1};  ///< of a pass; divides 4

  GradientTiles() = default;
  explicit GradientTiles(const ImageBlocks& image) : num_rounds(image.gradient_rounds) {
    std::int64_t least = 0;
    const int num_pairs = image.num_chunks * image.num_chunks;
    for (int passes = 1; passes <= num_pairs; ++passes) {
      const int pairs = (num_pairs + passes - 1) / passes;
      for (int groups = 1; groups <= image.band() && 3 * pairs * groups <= most_threads_of_images;
           ++groups) {
        const int rows = (image.band() + groups - 1) / groups;
        const std::int64_t time = time_of(image, passes, rows, 3 * pairs * groups);
        if (num_passes != 0 && time >= least) continue;
        least = time;
        pairs_a_pass = Divisor(pairs);
        rows_a_group = rows;
        num_groups = (image.band() + rows - 1) / rows;
        num_passes = passes;
      }
      if (num_passes != 0 && passes >= 2 * num_passes) break;
    }
  }

  REVODE_ON_DEVICE int num_tiles() const { return 3 * num_groups * pairs_a_pass; }
  REVODE_ON_DEVICE int outputs_a_round() const { return 4 / num_rounds; }
  /// Of a block: [outputs_a_round, 4, 3] and 4 of the bias, for each tile. An odd distance: threads
  /// that take one of each meet few banks twice.
  REVODE_ON_DEVICE int stride() const { return num_tiles() | 1; }
  REVODE_ON_DEVICE int sums_fours() const {
    return (12 * outputs_a_round() + 4) * stride() / 4 + 1;
  }
  REVODE_ON_DEVICE int num_phases() const { return 2 * num_passes * num_rounds; }
  bool operator==(const GradientTiles&) const = default;

 private:
  /// In units of a pixel by one warp of each of a multiprocessor's four schedulers; with fewer than
  /// three warps these wait. What a pass takes beside its pixels is a guess.
  static std::int64_t time_of(const ImageBlocks& image, int passes, int rows, int threads) {
    constexpr int beside_pixels = 8, threads_of_schedulers = 4 * 32, least_warps = 3;
    const int warps = (threads + threads_of_schedulers - 1) / threads_of_schedulers;
    return std::int64_t{1} * passes *
           (rows * image.width * (warps < least_warps ? least_warps : warps) + beside_pixels);
  }
};

/// A thread's part of a gradient.
struct GradientSums {
  float of[4][4][3];  ///< [outputs, inputs, kx]
};

/// What gradients of kernels are summed from and to: the kernel that leads from slot `in` to a
/// value whose gradient is in slot `grad_out`.
struct KernelGradient {
  int in_begin = 0;
  int grad_out_begin = 0;
  float factor = 1;
  bool is_antisymmetric = false;
  ExactSum* kernel = nullptr;  ///< [c, c, 3, 3]
  ExactSum* bias = nullptr;    ///< [c], may be null
  float limit = 0;             ///< of one contribution
  int* overflow = nullptr;
  int overflow_code = 0;
};

/// Which part of a gradient is a thread's in a pass.
struct GradientTile {
  REVODE_ON_DEVICE GradientTile(const ImageBlocks& image, const GradientTiles& tiles, int pass,
                                int thread) {
    const int pair = pass * tiles.pairs_a_pass + thread % tiles.pairs_a_pass;
    exists = thread < tiles.num_tiles() && pair < image.num_chunks * image.num_chunks;
    out_chunk = pair / image.num_chunks;
    in_chunk = pair % image.num_chunks;
    ky = thread / tiles.pairs_a_pass % 3;
    first_row = thread / tiles.pairs_a_pass / 3 * tiles.rows_a_group;
    const int behind = first_row + tiles.rows_a_group;
    last_row = behind < image.band() ? behind : image.band();
  }

  bool exists;
  int out_chunk, in_chunk, ky;
  int first_row, last_row;
};

/// sums += from a row of pixels.
REVODE_ON_DEVICE inline void add_gradient_of_row(int width, const Four* in, const Four* grad_out,
                                                 GradientSums& sums) {
  constexpr int at_once = 4;
  Four window[at_once + 2];
  window[0] = Four{};
  window[1] = in[0];
  const auto add_pixel = [&](int k, const Four& out) {
    REVODE_UNROLL for (int o = 0; o < 4; ++o) REVODE_UNROLL for (int i = 0; i < 4; ++i)
        REVODE_UNROLL for (int kx = 0; kx < 3; ++kx)
            sums.of[o][i][kx] = multiply_add(out.of[o], window[k + kx].of[i], sums.of[o][i][kx]);
  };
  int x = 0;
  for (; x + at_once <= width; x += at_once) {
    REVODE_UNROLL for (int k = 0; k < at_once; ++k) window[k + 2] = in[x + k + 1];
    REVODE_UNROLL for (int k = 0; k < at_once; ++k) add_pixel(k, grad_out[x + k]);
    window[0] = window[at_once];
    window[1] = window[at_once + 1];
  }
  for (; x < width; ++x) {
    window[2] = in[x + 1];
    add_pixel(0, grad_out[x]);
    window[0] = window[1];
    window[1] = window[2];
  }
}

/// own <- the sums of a thread's tile of a pass; those of the bias go to `sums`, see
/// put_gradient().
REVODE_ON_DEVICE inline void sum_gradient(const ImageBlocks& image, const GradientTiles& tiles,
                                          const ClusterShared& shared, int pass, int thread,
                                          const KernelGradient& gradient, GradientSums& own,
                                          float* sums) {
  const GradientTile tile(image, tiles, pass, thread);
  if (!tile.exists) return;
  REVODE_UNROLL for (int o = 0; o < 4; ++o) REVODE_UNROLL for (int i = 0; i < 4; ++i)
      REVODE_UNROLL for (int kx = 0; kx < 3; ++kx) own.of[o][i][kx] = 0;
  const Four* const grad_out = shared.own + gradient.grad_out_begin;
  if (image.cluster_size == 1) {
    for (int row = tile.first_row; row < tile.last_row; ++row)
      add_gradient_of_row(
          image.width,
          row_of_one(image, shared, gradient.in_begin, row + tile.ky - 1, tile.in_chunk).column_0,
          grad_out + image.index(row, 0, tile.out_chunk), own);
  } else {
    for (int row = tile.first_row; row < tile.last_row; ++row)
      add_gradient_of_row(
          image.width,
          row_of(image, shared, gradient.in_begin, row + tile.ky - 1, tile.in_chunk).column_0,
          grad_out + image.index(row, 0, tile.out_chunk), own);
  }
  if (gradient.bias == nullptr || tile.ky != 1 || tile.in_chunk != 0) return;
  float bias[4] = {0, 0, 0, 0};
  for (int row = tile.first_row; row < tile.last_row; ++row)
    for (int x = 0; x < image.width; ++x) {
      const Four out = grad_out[image.index(row, x, tile.out_chunk)];
      REVODE_UNROLL for (int o = 0; o < 4; ++o) bias[o] += out.of[o];
    }
  REVODE_UNROLL for (int o = 0; o < 4; ++o)
      sums[(12 * tiles.outputs_a_round() + o) * tiles.stride() + thread] = bias[o];
}

/// sums [outputs_a_round, 4, 3, stride] <- a round of what sum_gradient() left.
REVODE_ON_DEVICE inline void put_gradient(const ImageBlocks& image, const GradientTiles& tiles,
                                          int pass, int round, int thread, const GradientSums& own,
                                          float* sums) {
  if (!GradientTile(image, tiles, pass, thread).exists) return;
  const int outputs = tiles.outputs_a_round();
  REVODE_UNROLL for (int o = 0; o < 4; ++o) {
    if (o / outputs != round) continue;
    REVODE_UNROLL for (int i = 0; i < 4; ++i) REVODE_UNROLL for (int kx = 0; kx < 3; ++kx)
        sums[((o % outputs * 4 + i) * 3 + kx) * tiles.stride() + thread] = own.of[o][i][kx];
  }
}

REVODE_ON_DEVICE inline void contribute(const KernelGradient& gradient, float value,
                                        ExactSum* sum) {
  if (fabsf(value) < gradient.limit)
    add_atomically(sum, nearest_exact(value));
  else
    raise_atomically(gradient.overflow, gradient.overflow_code);
}

/// The gradient += a round of a pass, each entry once; neighbours in the kernel by threads beside
/// each other.
REVODE_ON_DEVICE inline void add_gradient(const ImageBlocks& image, const GradientTiles& tiles,
                                          int pass, int round, int thread,
                                          const KernelGradient& gradient, const float* sums) {
  const int first = pass * tiles.pairs_a_pass, outputs = tiles.outputs_a_round();
  const int left = image.num_chunks * image.num_chunks - first;
  const int pairs = tiles.pairs_a_pass, num_pairs = left < pairs ? left : pairs;
  const int c = image.channels;
  for (int k = thread; k < num_pairs * 36; k += image.num_threads) {
    const int pair = k / 36, i = k % 36 / 9, tap = k % 9;
    const int out_chunk = (first + pair) / image.num_chunks;
    const int in = ((first + pair) - out_chunk * image.num_chunks) * 4 + i;
    if (in >= c) continue;
    const float* of_group = sums + (i * 3 + tap % 3) * tiles.stride() + tap / 3 * pairs + pair;
    float values[4] = {0, 0, 0, 0};
    REVODE_UNROLL_BY(1)
    for (int group = 0; group < tiles.num_groups; ++group, of_group += 3 * pairs)
      REVODE_UNROLL for (int o = 0; o < 4; ++o) if (o < outputs) values[o] +=
          of_group[o * 12 * tiles.stride()];
    REVODE_UNROLL for (int o = 0; o < 4; ++o) {
      const int out = out_chunk * 4 + round * outputs + o;
      if (o >= outputs || out >= c) continue;
      const float value = gradient.factor * values[o];
      contribute(gradient, value, gradient.kernel + (out * c + in) * 9 + tap);
      if (gradient.is_antisymmetric)
        contribute(gradient, -value, gradient.kernel + (in * c + out) * 9 + 8 - tap);
    }
  }
  if (gradient.bias == nullptr || round != 0) return;
  for (int k = thread; k < num_pairs * 4; k += image.num_threads) {
    const int pair = k / 4, o = k % 4;
    const int out = (first + pair) / image.num_chunks * 4 + o;
    if ((first + pair) % image.num_chunks != 0 || out >= c) continue;
    const float* const of_first = sums + (12 * outputs + o) * tiles.stride() + pairs + pair;
    float value = 0;
    REVODE_UNROLL_BY(1)
    for (int group = 0; group < tiles.num_groups; ++group) value += of_first[group * 3 * pairs];
    contribute(gradient, gradient.factor * value, gradient.bias + out);
  }
}

/// Phase `phase` of a gradient, of tiles.num_phases().
REVODE_ON_DEVICE inline void take_gradient_phase(const ImageBlocks& image,
                                                 const GradientTiles& tiles,
                                                 const ClusterShared& shared, int phase, int thread,
                                                 const KernelGradient& gradient, GradientSums& own,
                                                 float* sums) {
  const int pass = phase / 2 / tiles.num_rounds, round = phase / 2 % tiles.num_rounds;
  if (phase % 2 == 1) {
    add_gradient(image, tiles, pass, round, thread, gradient, sums);
    return;
  }
  if (round == 0) sum_gradient(image, tiles, shared, pass, thread, gradient, own, sums);
  put_gradient(image, tiles, pass, round, thread, own, sums);
}

/// Products as the kernels of sweeps form them: here by multiply-adds in single precision.
template <int channels_a_thread>
struct FusedProducts {
  using Image = ImageBlocks;
  using Tile = OutputTile<channels_a_thread>;
  using Sums = OutputSums<channels_a_thread>;
  using GradientTiles = cuda::GradientTiles;
  using GradientSums = cuda::GradientSums;
  /// What is left of a factor behind add_products().
  REVODE_ON_DEVICE static float factor_left(float factor) { return factor; }
};

}  // namespace revode::cuda
