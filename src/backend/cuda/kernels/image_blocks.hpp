// An image in the shared memory of a block, or in bands of rows in those of a cluster of blocks,
// and what its threads do with it: convolutions from slot to slot, and the gradients of kernels.
//
// A slot is [band, width, chunks] of four channels each; chunks of a pixel are permuted so that
// threads beside each other, which take pixels beside each other, meet no bank of shared memory
// twice. A thread computes 4 rows x channels_a_thread outputs of a convolution.
#pragma once

#include <cstdint>

#include "backend/cuda/kernel.hpp"

#ifdef __CUDA_ARCH__
#define REVODE_UNROLL _Pragma("unroll")
#else
#define REVODE_UNROLL
#endif

namespace revode::cuda {

inline constexpr int rows_a_thread = 4;

/// Threads of a block at most: with more, their registers would not do.
inline constexpr int most_threads_of_images = 512;

struct ImageBlocks {
  int channels = 0;
  int height = 0;
  int width = 0;
  int cluster_size = 1;  ///< divides height
  int num_chunks = 0;    ///< of four channels; those behind `channels` hold zeros
  int num_threads = 0;

  REVODE_ON_DEVICE int band() const { return height / cluster_size; }
  REVODE_ON_DEVICE int band_size() const { return band() * width; }
  REVODE_ON_DEVICE int plane_size() const { return height * width; }
  REVODE_ON_DEVICE int slot_fours() const { return band_size() * num_chunks; }
  REVODE_ON_DEVICE int padded_channels() const { return 4 * num_chunks; }
  /// A convolution is done in so many, each from one chunk to all.
  REVODE_ON_DEVICE int num_steps() const { return num_chunks; }
  /// The weights that lead from a chunk to all outputs: [4, 9, padded_channels].
  REVODE_ON_DEVICE int weight_fours() const { return 9 * padded_channels(); }

  /// Where chunk q of pixel p of the band is in a slot.
  REVODE_ON_DEVICE int index(int p, int q) const {
    // The eight groups of banks that a chunk may be in: pixels 2^(3 - bits) apart would share one.
    const int bits = num_chunks % 2 != 0   ? 0
                     : num_chunks % 4 != 0 ? 1
                     : num_chunks % 8 != 0 ? 2
                                           : 3;
    return p * num_chunks + (q ^ ((p >> (3 - bits)) & ((1 << bits) - 1)));
  }
};

/// Which outputs are a thread's: rows from `row` of its block's band on, column x, channels from
/// `channel` on.
template <int channels_a_thread>
struct OutputTile {
  OutputTile() = default;
  REVODE_ON_DEVICE OutputTile(const ImageBlocks& image, int thread) {
    const int num_tiles = (image.band() + rows_a_thread - 1) / rows_a_thread;
    x = thread % image.width;
    row = thread / image.width % num_tiles * rows_a_thread;
    channel = thread / image.width / num_tiles * channels_a_thread;
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

  REVODE_ON_DEVICE void clear() {
    REVODE_UNROLL for (int r = 0; r < rows_a_thread; ++r)
        REVODE_UNROLL for (int o = 0; o < channels_a_thread; ++o) of[r][o] = 0;
  }
};

/// Chunk q at row y of the image and column x of a slot; zero outside. `own` and the others' slots
/// begin at the same place of each block's memory.
REVODE_ON_DEVICE inline Four read_chunk(const ImageBlocks& image, const ClusterShared& shared,
                                        int slot_begin, int y, int x, int q) {
  if (x < 0 || x >= image.width || y < 0 || y >= image.height) return Four{};
  const int first = shared.rank * image.band();
  if (y >= first && y < first + image.band())
    return shared.own[slot_begin + image.index((y - first) * image.width + x, q)];
  const int other = y < first ? shared.rank - 1 : shared.rank + 1;
  return shared.of(
      other)[slot_begin + image.index((y - other * image.band()) * image.width + x, q)];
}

/// sums += K applied to chunk q of a slot, of which `weights` are the part; the factor is left to
/// whoever takes the sums.
template <int channels_a_thread>
REVODE_ON_DEVICE void add_products(const ImageBlocks& image, const ClusterShared& shared,
                                   int slot_begin, int q, const Four* weights,
                                   const OutputTile<channels_a_thread>& tile, float,
                                   OutputSums<channels_a_thread>& sums) {
  const int y = shared.rank * image.band() + tile.row;
  const int row_fours = image.num_chunks;  // of the weights of one input channel and tap
  REVODE_UNROLL for (int kx = 0; kx < 3; ++kx) {
    Four column[rows_a_thread + 2];
    REVODE_UNROLL for (int r = 0; r < rows_a_thread + 2; ++r) column[r] =
        r <= tile.num_rows + 1
            ? read_chunk(image, shared, slot_begin, y + r - 1, tile.x + kx - 1, q)
            : Four{};
    REVODE_UNROLL for (int ky = 0; ky < 3; ++ky) REVODE_UNROLL for (int i = 0; i < 4; ++i) {
      const Four* const row = weights + (i * 9 + ky * 3 + kx) * row_fours + tile.channel / 4;
      REVODE_UNROLL for (int part = 0; part < channels_a_thread / 4; ++part) {
        const Four w = row[part];
        REVODE_UNROLL for (int r = 0; r < rows_a_thread; ++r)
            REVODE_UNROLL for (int o = 0; o < 4; ++o) {
          float& sum = sums.of[r][4 * part + o];
          sum = multiply_add(w.of[o], column[r + ky].of[i], sum);
        }
      }
    }
  }
}

/// Calls f(index in a slot, channel, sums of its four channels) for each chunk of the tile.
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
      f(p, tile.channel / 4 + part, values);
    }
  }
}

/// A slot <- the block's band of an image [channels, height, width], and back.
template <typename Image>
REVODE_ON_DEVICE void take_band(const Image& image, int rank, int thread, const float* from,
                                Four* slot) {
  for (int k = thread; k < image.slot_fours(); k += image.num_threads) {
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
  for (int k = thread; k < image.slot_fours(); k += image.num_threads) {
    const int p = k % image.band_size(), q = k / image.band_size();
    const Four values = slot[image.index(p, q)];
    REVODE_UNROLL for (int i = 0; i < 4; ++i) if (4 * q + i < image.channels)
        to[(4 * q + i) * image.plane_size() + rank * image.band_size() + p] = values.of[i];
  }
}

/// The weights of all couplings, a part of weight_fours() for each step.
struct BlockWeights {
  const Four* forward = nullptr;  ///< of K, or of K - K^T
  const Four* adjoint = nullptr;  ///< of K^T; null for the antisymmetric force
  const float* bias = nullptr;    ///< [num_couplings, channels]

  template <typename Image>
  REVODE_ON_DEVICE static void fetch(const Image& image, int thread, const Four* part, Four* to) {
    for (int k = thread; k < image.weight_fours(); k += image.num_threads)
      copy_by_next_phase(to + k, part + k);
  }
};

/// How a block divides the gradient of a kernel among its threads: a thread takes 4 outputs x 4
/// inputs x 3 taps of one kernel row over some rows of the band. What does not fit at once is done
/// in passes.
struct GradientTiles {
  static constexpr int sums_a_thread = 4 * 4 * 3 + 4;  ///< the last four are those of the bias
  static constexpr int most_threads = 256;             ///< more would need too much memory

  int pairs_a_pass = 0;  ///< of a chunk of outputs and a chunk of inputs
  int rows_a_group = 0;
  int num_groups = 0;
  int num_passes = 0;

  explicit GradientTiles(const ImageBlocks& image) {
    const int available = image.num_threads < most_threads ? image.num_threads : most_threads;
    const int num_pairs = image.num_chunks * image.num_chunks;
    pairs_a_pass = num_pairs < available / 3 ? num_pairs : available / 3;
    const int most_groups = available / (3 * pairs_a_pass);
    rows_a_group = (image.band() + most_groups - 1) / most_groups;
    num_groups = (image.band() + rows_a_group - 1) / rows_a_group;
    num_passes = (num_pairs + pairs_a_pass - 1) / pairs_a_pass;
  }
  GradientTiles() = default;

  REVODE_ON_DEVICE int num_tiles() const { return 3 * num_groups * pairs_a_pass; }
  REVODE_ON_DEVICE int sums_fours() const { return sums_a_thread * num_tiles() / 4 + 1; }
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

/// sums [sums_a_thread, num_tiles] <- of the tiles of a pass.
REVODE_ON_DEVICE inline void sum_gradient(const ImageBlocks& image, const GradientTiles& tiles,
                                          const ClusterShared& shared, int pass, int thread,
                                          const KernelGradient& gradient, float* sums) {
  if (thread >= tiles.num_tiles()) return;
  const int pair = pass * tiles.pairs_a_pass + thread % tiles.pairs_a_pass;
  if (pair >= image.num_chunks * image.num_chunks) return;
  const int ky = thread / tiles.pairs_a_pass % 3, group = thread / tiles.pairs_a_pass / 3;
  const int q_out = pair / image.num_chunks, q_in = pair % image.num_chunks;
  float sum[4][4][3], bias[4];
  REVODE_UNROLL for (int o = 0; o < 4; ++o) {
    bias[o] = 0;
    REVODE_UNROLL for (int i = 0; i < 4; ++i) REVODE_UNROLL for (int kx = 0; kx < 3; ++kx)
        sum[o][i][kx] = 0;
  }
  const int last = (group + 1) * tiles.rows_a_group;
  for (int row = group * tiles.rows_a_group; row < last && row < image.band(); ++row) {
    const int y = shared.rank * image.band() + row + ky - 1;
    Four in[3] = {Four{}, read_chunk(image, shared, gradient.in_begin, y, 0, q_in), Four{}};
    for (int x = 0; x < image.width; ++x) {
      in[2] = read_chunk(image, shared, gradient.in_begin, y, x + 1, q_in);
      const Four out =
          shared.own[gradient.grad_out_begin + image.index(row * image.width + x, q_out)];
      REVODE_UNROLL for (int o = 0; o < 4; ++o) {
        bias[o] += out.of[o];
        REVODE_UNROLL for (int i = 0; i < 4; ++i) REVODE_UNROLL for (int kx = 0; kx < 3; ++kx)
            sum[o][i][kx] = multiply_add(out.of[o], in[kx].of[i], sum[o][i][kx]);
      }
      in[0] = in[1];
      in[1] = in[2];
    }
  }
  const int stride = tiles.num_tiles();
  REVODE_UNROLL for (int o = 0; o < 4; ++o) {
    sums[(48 + o) * stride + thread] = bias[o];
    REVODE_UNROLL for (int i = 0; i < 4; ++i) REVODE_UNROLL for (int kx = 0; kx < 3; ++kx)
        sums[((o * 4 + i) * 3 + kx) * stride + thread] = sum[o][i][kx];
  }
}

REVODE_ON_DEVICE inline void contribute(const KernelGradient& gradient, float value,
                                        ExactSum* sum) {
  if (fabsf(value) < gradient.limit)
    add_atomically(sum, nearest_exact(value));
  else
    raise_atomically(gradient.overflow, gradient.overflow_code);
}

/// The gradient += what sum_gradient() left, each entry once; neighbours in the kernel by threads
/// beside each other.
REVODE_ON_DEVICE inline void add_gradient(const ImageBlocks& image, const GradientTiles& tiles,
                                          int pass, int thread, const KernelGradient& gradient,
                                          const float* sums) {
  constexpr int sums_a_pair = 4 * 4 * 9;
  const int first = pass * tiles.pairs_a_pass, stride = tiles.num_tiles();
  const int num_pairs = image.num_chunks * image.num_chunks;
  const int num_here =
      num_pairs - first < tiles.pairs_a_pass ? num_pairs - first : tiles.pairs_a_pass;
  const auto over_groups = [&](int which, int ky, int pair) {
    float sum = 0;
    for (int group = 0; group < tiles.num_groups; ++group)
      sum += sums[which * stride + (group * 3 + ky) * tiles.pairs_a_pass + pair];
    return gradient.factor * sum;
  };
  const int c = image.channels;
  for (int k = thread; k < num_here * sums_a_pair; k += image.num_threads) {
    const int pair = k / sums_a_pair, rest = k % sums_a_pair;
    const int o = rest / 36, i = rest % 36 / 9, tap = rest % 9;
    const int out = (first + pair) / image.num_chunks * 4 + o;
    const int in = (first + pair) % image.num_chunks * 4 + i;
    if (out >= c || in >= c) continue;
    const float value = over_groups((o * 4 + i) * 3 + tap % 3, tap / 3, pair);
    contribute(gradient, value, gradient.kernel + (out * c + in) * 9 + tap);
    if (gradient.is_antisymmetric)
      contribute(gradient, -value, gradient.kernel + (in * c + out) * 9 + 8 - tap);
  }
  if (gradient.bias == nullptr) return;
  for (int k = thread; k < num_here * 4; k += image.num_threads) {
    const int pair = k / 4, o = k % 4;
    const int out = (first + pair) / image.num_chunks * 4 + o;
    if ((first + pair) % image.num_chunks != 0 || out >= c) continue;
    contribute(gradient, over_groups(48 + o, 1, pair), gradient.bias + out);
  }
}

/// Products as the kernels of sweeps form them: here by multiply-adds in single precision.
template <int channels_a_thread>
struct FusedProducts {
  using Image = ImageBlocks;
  using Tile = OutputTile<channels_a_thread>;
  using Sums = OutputSums<channels_a_thread>;
  using GradientTiles = cuda::GradientTiles;
  /// What is left of a factor behind add_products().
  REVODE_ON_DEVICE static float factor_left(float factor) { return factor; }
};

}  // namespace revode::cuda
