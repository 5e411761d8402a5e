// All couplings of a segment in one launch: a cluster of blocks takes an image through them, there
// or back, while it stays in their shared memory. See backend/segment.hpp for the equations.
#pragma once

#include <cstdint>
#include <string_view>

#include "revode/backend/segment.hpp"

#include "backend/cuda/kernels/coupling.hpp"
#include "backend/cuda/kernels/image_blocks.hpp"

namespace revode::cuda {

/// What sweeps of both directions have.
struct ImageSweep {
  ImageBlocks image;
  Force force = Force::symmetric;
  CouplingRange range;
  int first_target = 0;
  CouplingLine line[2];  ///< by target slot
  BlockWeights weights;
  int batch = 0;
  float* state[2] = {nullptr, nullptr};  ///< [batch, channels, height, width]
  /// [num_couplings + 1, record_batch, height, width, chunks], written on the way there and read on
  /// the way back; null where nothing is recorded. In entry j the target of coupling j before it
  /// changes, in the last one the other slot of the last coupling.
  Four* record = nullptr;
  const Four* recorded = nullptr;
  int record_batch = 0;

  REVODE_ON_DEVICE bool is_symmetric() const { return force == Force::symmetric; }
  REVODE_ON_DEVICE int num_couplings() const { return range.last - range.first; }
  REVODE_ON_DEVICE int target_of(int coupling) const { return (first_target + coupling) % 2; }
  /// Not indexed: on a device the lines would go to local memory.
  REVODE_ON_DEVICE CouplingLine line_of(int target) const {
    return target == 0 ? line[0] : line[1];
  }
  /// Image n of a slot of the state, or of the adjoint.
  REVODE_ON_DEVICE float* image_of(float* const (&slots)[2], int slot, std::int64_t n) const {
    return (slot == 0 ? slots[0] : slots[1]) + n * image.channels * image.plane_size();
  }
  REVODE_ON_DEVICE std::int64_t record_index(int coupling, std::int64_t n, int rank, int p,
                                             int q) const {
    const std::int64_t pixel =
        (std::int64_t{1} * coupling * record_batch + n) * image.plane_size() +
        rank * image.band_size() + p;
    return pixel * image.num_chunks + q;
  }
  /// The slot that the last coupling does not change.
  REVODE_ON_DEVICE int last_other() const { return 1 - target_of(range.last - 1); }
  /// Calls f(index in a slot, index in the record) for a thread's part of the entry behind the last
  /// coupling.
  template <typename Function>
  REVODE_ON_DEVICE void for_each_recorded(std::int64_t n, int rank, int thread,
                                          Function&& f) const {
    for (int k = thread; k < image.slot_fours(); k += image.num_threads) {
      const int p = k / image.num_chunks, q = k % image.num_chunks;
      f(image.index(p, q), record_index(range.last, n, rank, p, q));
    }
  }
  /// Weights of chunk q of a coupling.
  REVODE_ON_DEVICE const Four* part(const Four* of_all, int coupling, int q) const {
    return of_all + (std::int64_t{1} * coupling * image.num_chunks + q) * image.weight_fours();
  }
  /// Where a block's memory has the weights of every other step.
  REVODE_ON_DEVICE Four* weights_at(const ClusterShared& shared, int num_slots, int step) const {
    return shared.own + num_slots * image.slot_fours() + step % 2 * image.weight_fours();
  }
  REVODE_ON_DEVICE float bias_of(int coupling, int channel) const {
    return channel < image.channels ? weights.bias[coupling * image.channels + channel] : 0;
  }

  Accesses accesses() const {
    const std::size_t couplings = range.last;
    const std::size_t fours = couplings * image.num_chunks * image.weight_fours();
    const std::size_t values = std::size_t{1} * batch * image.channels * image.plane_size();
    return Accesses()
        .reads(weights.forward, fours)
        .reads(weights.adjoint, fours)
        .reads(weights.bias, couplings * image.channels)
        .writes(state[0], values)
        .writes(state[1], values)
        .writes(record, record_fours())
        .reads(recorded, record_fours());
  }

 private:
  std::size_t record_fours() const {
    return std::size_t{1} * (range.last + 1) * record_batch * image.plane_size() * image.num_chunks;
  }
};

/// state <- through the couplings of the range; *counts += what left the range of exact reversal.
template <int channels_a_thread>
struct AdvanceImages {
  static constexpr std::string_view name = "advance_images";
  struct Registers {
    OutputSums<channels_a_thread> sums;
    int out_of_range, rounded_to_zero;
  };
  ImageSweep sweep;
  RangeCounts* counts = nullptr;  ///< may be null

  REVODE_ON_DEVICE std::int64_t num_clusters() const { return sweep.batch; }
  REVODE_ON_DEVICE int cluster_size() const { return sweep.image.cluster_size; }
  REVODE_ON_DEVICE int num_threads() const { return sweep.image.num_threads; }
  static int num_slots(Force force) { return force == Force::symmetric ? 3 : 2; }
  static std::size_t shared_fours(const ImageBlocks& image, Force force) {
    return std::size_t{1} * num_slots(force) * image.slot_fours() + 2 * image.weight_fours();
  }
  std::size_t shared_fours() const { return shared_fours(sweep.image, sweep.force); }
  /// An image is taken in, goes through a step for every chunk of every convolution, and is brought
  /// back.
  REVODE_ON_DEVICE int num_phases() const { return 2 + sweep.num_couplings() * steps_a_coupling(); }

  REVODE_ON_DEVICE void operator()(int phase, std::int64_t n, int thread,
                                   const ClusterShared& shared, Registers& own) const {
    const ImageBlocks& image = sweep.image;
    if (phase == 0) {
      for (int slot = 0; slot < 2; ++slot)
        take_band(image, shared.rank, thread, sweep.image_of(sweep.state, slot, n),
                  shared.own + slot * image.slot_fours());
      own.out_of_range = own.rounded_to_zero = 0;
      fetch_weights(0, thread, shared);
    } else if (phase < num_phases() - 1) {
      fetch_weights(phase, thread, shared);
      take_step(phase - 1, n, thread, shared, own);
    } else {
      for (int slot = 0; slot < 2; ++slot)
        bring_back_band(image, shared.rank, thread, shared.own + slot * image.slot_fours(),
                        sweep.image_of(sweep.state, slot, n));
      if (sweep.record != nullptr) record_last(n, thread, shared);
      if (counts == nullptr) return;
      if (own.out_of_range > 0) add_atomically(&counts->out_of_range, own.out_of_range);
      if (own.rounded_to_zero > 0) add_atomically(&counts->rounded_to_zero, own.rounded_to_zero);
    }
  }

  Accesses accesses() const { return sweep.accesses().adds(counts, 1); }

 private:
  REVODE_ON_DEVICE void record_last(std::int64_t n, int thread, const ClusterShared& shared) const {
    const Four* const other = shared.own + sweep.last_other() * sweep.image.slot_fours();
    sweep.for_each_recorded(n, shared.rank, thread,
                            [&](int at, std::int64_t index) { sweep.record[index] = other[at]; });
  }

  REVODE_ON_DEVICE int steps_a_coupling() const {
    return (sweep.is_symmetric() ? 2 : 1) * sweep.image.num_chunks;
  }
  REVODE_ON_DEVICE int slots() const { return sweep.is_symmetric() ? 3 : 2; }

  REVODE_ON_DEVICE void fetch_weights(int step, int thread, const ClusterShared& shared) const {
    const int coupling = sweep.range.first + step / steps_a_coupling();
    const int within = step % steps_a_coupling(), q = within % sweep.image.num_chunks;
    if (coupling >= sweep.range.last) return;
    const Four* const of_all =
        within < sweep.image.num_chunks ? sweep.weights.forward : sweep.weights.adjoint;
    BlockWeights::fetch(sweep.image, thread, sweep.part(of_all, coupling, q),
                        sweep.weights_at(shared, slots(), step));
  }

  /// hidden <- sigma(K other + b), a chunk of inputs a step; then, symmetric, target <- from K^T
  /// hidden, likewise; antisymmetric: the target at once.
  REVODE_ON_DEVICE void take_step(int step, std::int64_t n, int thread, const ClusterShared& shared,
                                  Registers& own) const {
    const ImageBlocks& image = sweep.image;
    const OutputTile<channels_a_thread> tile(image, thread);
    if (tile.num_rows == 0) return;
    const int coupling = sweep.range.first + step / steps_a_coupling();
    const int within = step % steps_a_coupling(), q = within % image.num_chunks;
    const int target = sweep.target_of(coupling);
    const int target_begin = target * image.slot_fours(), hidden_begin = 2 * image.slot_fours();
    const int other_begin = (1 - target) * image.slot_fours();
    const bool is_second = within >= image.num_chunks;
    if (q == 0) own.sums.clear();
    add_products(image, shared, is_second ? hidden_begin : other_begin, q,
                 sweep.weights_at(shared, slots(), step), tile, own.sums);
    if (q < image.num_chunks - 1) return;
    const CouplingLine line = sweep.line_of(target);
    for_each_chunk(image, tile, own.sums, [&](int p, int chunk, Four force) {
      if (!is_second)
        REVODE_UNROLL for (int o = 0; o < 4; ++o) force.of[o] =
            relu(force.of[o] + sweep.bias_of(coupling, 4 * chunk + o));
      if (!is_second && sweep.is_symmetric()) {
        shared.own[hidden_begin + image.index(p, chunk)] = force;
        return;
      }
      Four& value = shared.own[target_begin + image.index(p, chunk)];
      const Four other = shared.own[other_begin + image.index(p, chunk)];
      if (sweep.record != nullptr)
        sweep.record[sweep.record_index(coupling, n, shared.rank, p, chunk)] = value;
      REVODE_UNROLL for (int o = 0; o < 4; ++o) {
        const LineStep stepped = advance_line(line, value.of[o], other.of[o], force.of[o]);
        value.of[o] = stepped.value;
        own.out_of_range += stepped.num_out_of_range;
        own.rounded_to_zero += stepped.num_rounded_to_zero;
      }
    });
  }
};

/// state and adjoint <- back through the couplings of the range; the gradients of each image are
/// contributions of their own, one or two an entry and block.
template <int channels_a_thread>
struct RetreatImages {
  static constexpr std::string_view name = "retreat_images";
  struct Registers {
    OutputSums<channels_a_thread> sums;
  };
  ImageSweep sweep;
  GradientTiles tiles;
  float* adjoint[2] = {nullptr, nullptr};  ///< [batch, channels, height, width]
  ExactSum* grad_kernel = nullptr;         ///< [num_couplings, c, c, 3, 3]
  ExactSum* grad_bias = nullptr;           ///< [num_couplings, c]
  float limit = 0;                         ///< of one contribution
  int* overflow = nullptr;
  int overflow_first = 0;  ///< the code of coupling 0

  REVODE_ON_DEVICE std::int64_t num_clusters() const { return sweep.batch; }
  REVODE_ON_DEVICE int cluster_size() const { return sweep.image.cluster_size; }
  REVODE_ON_DEVICE int num_threads() const { return sweep.image.num_threads; }
  static std::size_t shared_fours(const ImageBlocks& image) {
    return std::size_t{1} * num_slots * image.slot_fours() + 2 * image.weight_fours() +
           GradientTiles(image).sums_fours();
  }
  std::size_t shared_fours() const { return shared_fours(sweep.image); }
  REVODE_ON_DEVICE int num_phases() const {
    return 2 + sweep.num_couplings() * phases_a_coupling();
  }

  REVODE_ON_DEVICE void operator()(int phase, std::int64_t n, int thread,
                                   const ClusterShared& shared, Registers& own) const {
    const ImageBlocks& image = sweep.image;
    if (phase == 0) {
      for (int slot = 0; slot < 2; ++slot) {
        if (sweep.recorded == nullptr)
          take_band(image, shared.rank, thread, sweep.image_of(sweep.state, slot, n),
                    shared.own + slot * image.slot_fours());
        take_band(image, shared.rank, thread, sweep.image_of(adjoint, slot, n),
                  shared.own + (2 + slot) * image.slot_fours());
      }
      if (sweep.recorded != nullptr) take_last(n, thread, shared);
      fetch_weights(0, thread, shared);
    } else if (phase < num_phases() - 1) {
      const int number = (phase - 1) / phases_a_coupling();
      take_part((phase - 1) % phases_a_coupling(), number, n, thread, shared, own);
    } else {
      for (int slot = 0; slot < 2; ++slot) {
        bring_back_band(image, shared.rank, thread, shared.own + slot * image.slot_fours(),
                        sweep.image_of(sweep.state, slot, n));
        bring_back_band(image, shared.rank, thread, shared.own + (2 + slot) * image.slot_fours(),
                        sweep.image_of(adjoint, slot, n));
      }
    }
  }

  Accesses accesses() const {
    const ImageBlocks& image = sweep.image;
    const std::size_t values = std::size_t{1} * sweep.batch * image.channels * image.plane_size();
    const std::size_t row = std::size_t{9} * image.channels * image.channels;
    return sweep.accesses()
        .writes(adjoint[0], values)
        .writes(adjoint[1], values)
        .adds(grad_kernel + sweep.range.first * row, sweep.num_couplings() * row)
        .adds(grad_bias + sweep.range.first * image.channels,
              std::size_t{1} * sweep.num_couplings() * image.channels)
        .adds(overflow, 1);
  }

 private:
  /// Two of the state, two of the adjoint; the last has the hidden layer, then its gradient.
  static constexpr int num_slots = 5;

  /// What is done for a coupling, each a convolution in num_chunks phases, or a gradient in
  /// 2 num_passes.
  enum class Part {
    hidden,          ///< u = K other + b; hidden <- sigma(u); antisymmetric: target, grad_u at once
    force,           ///< target <- from K^T hidden; symmetric, where it is not recorded
    outer_gradient,  ///< dK from (s adjoint_target, hidden); symmetric
    grad_hidden,     ///< grad_u <- sigma'(u) K s adjoint_target, in place of hidden; symmetric
    grad_other,      ///< adjoint_other += beta adjoint_target + K^T grad_u
    inner_gradient,  ///< dK from (other, grad_u), and db
  };

  /// Of the state behind the last coupling what it did not change: all that is needed of it.
  REVODE_ON_DEVICE void take_last(std::int64_t n, int thread, const ClusterShared& shared) const {
    Four* const other = shared.own + sweep.last_other() * sweep.image.slot_fours();
    sweep.for_each_recorded(n, shared.rank, thread,
                            [&](int at, std::int64_t index) { other[at] = sweep.recorded[index]; });
  }

  REVODE_ON_DEVICE bool has(Part part) const {
    if (part == Part::force) return sweep.is_symmetric() && sweep.recorded == nullptr;
    if (part == Part::outer_gradient || part == Part::grad_hidden) return sweep.is_symmetric();
    return true;
  }
  REVODE_ON_DEVICE static bool is_gradient(Part part) {
    return part == Part::outer_gradient || part == Part::inner_gradient;
  }
  REVODE_ON_DEVICE int num_phases_of(Part part) const {
    if (!has(part)) return 0;
    return is_gradient(part) ? 2 * tiles.num_passes : sweep.image.num_chunks;
  }
  REVODE_ON_DEVICE int phases_a_coupling() const {
    int sum = 0;
    for (int part = 0; part <= static_cast<int>(Part::inner_gradient); ++part)
      sum += num_phases_of(static_cast<Part>(part));
    return sum;
  }
  REVODE_ON_DEVICE int convolutions_a_coupling() const {
    return !sweep.is_symmetric() ? 2 : sweep.recorded == nullptr ? 4 : 3;
  }

  /// For step number `step` of all convolutions of the sweep.
  REVODE_ON_DEVICE void fetch_weights(int step, int thread, const ClusterShared& shared) const {
    const int steps = convolutions_a_coupling() * sweep.image.num_chunks;
    const int coupling = sweep.range.last - 1 - step / steps;
    if (coupling < sweep.range.first) return;
    const int convolution = step % steps / sweep.image.num_chunks;
    // K, K^T, K, K^T; with a record K, K, K^T; antisymmetric K - K^T twice.
    const bool is_adjoint = sweep.is_symmetric() &&
                            (sweep.recorded == nullptr ? convolution % 2 == 1 : convolution == 2);
    BlockWeights::fetch(sweep.image, thread,
                        sweep.part(is_adjoint ? sweep.weights.adjoint : sweep.weights.forward,
                                   coupling, step % sweep.image.num_chunks),
                        sweep.weights_at(shared, num_slots, step));
  }

  /// Phase `phase` of a coupling, the number-th from the last.
  REVODE_ON_DEVICE void take_part(int phase, int number, std::int64_t n, int thread,
                                  const ClusterShared& shared, Registers& own) const {
    int part = 0, convolutions = 0;
    while (phase >= num_phases_of(static_cast<Part>(part))) {
      phase -= num_phases_of(static_cast<Part>(part));
      convolutions += has(static_cast<Part>(part)) && !is_gradient(static_cast<Part>(part)) ? 1 : 0;
      ++part;
    }
    const int coupling = sweep.range.last - 1 - number;
    if (is_gradient(static_cast<Part>(part))) {
      take_gradient(static_cast<Part>(part), coupling, phase, thread, shared);
    } else {
      const int step =
          (number * convolutions_a_coupling() + convolutions) * sweep.image.num_chunks + phase;
      fetch_weights(step + 1, thread, shared);
      convolve(static_cast<Part>(part), coupling, phase, step, n, thread, shared, own);
    }
  }

  REVODE_ON_DEVICE void take_gradient(Part part, int coupling, int phase, int thread,
                                      const ClusterShared& shared) const {
    const ImageBlocks& image = sweep.image;
    const int target = sweep.target_of(coupling), slot = image.slot_fours();
    const std::int64_t c = image.channels;
    const bool is_outer = part == Part::outer_gradient;
    const KernelGradient gradient{.in_begin = (is_outer ? 2 + target : 1 - target) * slot,
                                  .grad_out_begin = 4 * slot,
                                  .factor = is_outer ? sweep.line_of(target).scale : 1,
                                  .is_antisymmetric = !sweep.is_symmetric(),
                                  .kernel = grad_kernel + coupling * 9 * c * c,
                                  .bias = is_outer ? nullptr : grad_bias + coupling * c,
                                  .limit = limit,
                                  .overflow = overflow,
                                  .overflow_code = overflow_first + coupling};
    auto* const sums =
        reinterpret_cast<float*>(shared.own + num_slots * slot + 2 * image.weight_fours());
    if (phase % 2 == 0)
      sum_gradient(image, tiles, shared, phase / 2, thread, gradient, sums);
    else
      add_gradient(image, tiles, phase / 2, thread, gradient, sums);
  }

  REVODE_ON_DEVICE void convolve(Part part, int coupling, int q, int step, std::int64_t n,
                                 int thread, const ClusterShared& shared, Registers& own) const {
    const ImageBlocks& image = sweep.image;
    const OutputTile<channels_a_thread> tile(image, thread);
    if (tile.num_rows == 0) return;
    const int target = sweep.target_of(coupling), slot = image.slot_fours();
    const int target_begin = target * slot, other_begin = (1 - target) * slot;
    const int hidden_begin = 4 * slot;
    const int from = part == Part::hidden        ? other_begin
                     : part == Part::grad_hidden ? (2 + target) * slot
                                                 : hidden_begin;
    if (q == 0) own.sums.clear();
    add_products(image, shared, from, q, sweep.weights_at(shared, num_slots, step), tile, own.sums);
    if (q < image.num_chunks - 1) return;

    const CouplingLine line = sweep.line_of(target);
    for_each_chunk(image, tile, own.sums, [&](int p, int chunk, Four product) {
      const int at = image.index(p, chunk);
      Four& value = shared.own[target_begin + at];
      Four& hidden = shared.own[hidden_begin + at];
      Four& adjoint_target = shared.own[(2 + target) * slot + at];
      Four& adjoint_other = shared.own[(3 - target) * slot + at];
      const Four other = shared.own[other_begin + at];
      switch (part) {
        case Part::hidden:
          REVODE_UNROLL for (int o = 0; o < 4; ++o) product.of[o] =
              relu(product.of[o] + sweep.bias_of(coupling, 4 * chunk + o));
          if (sweep.recorded != nullptr)
            value = sweep.recorded[sweep.record_index(coupling, n, shared.rank, p, chunk)];
          else if (!sweep.is_symmetric())
            retreat_chunk(line, product, other, value);
          hidden = product;
          if (!sweep.is_symmetric())
            REVODE_UNROLL for (int o = 0; o < 4; ++o) hidden.of[o] =
                product.of[o] > 0 ? line.scale * adjoint_target.of[o] : 0;
          break;
        case Part::force:
          retreat_chunk(line, product, other, value);
          break;
        case Part::grad_hidden:
          REVODE_UNROLL for (int o = 0; o < 4; ++o) hidden.of[o] =
              hidden.of[o] > 0 ? line.scale * product.of[o] : 0;
          break;
        case Part::grad_other:
          // (K - K^T)^T = -(K - K^T)
          REVODE_UNROLL for (int o = 0; o < 4; ++o) {
            const float a = adjoint_target.of[o];
            const float through_force = sweep.is_symmetric() ? product.of[o] : -product.of[o];
            adjoint_other.of[o] = (adjoint_other.of[o] + line.beta * a) + through_force;
            adjoint_target.of[o] = line.gamma * a;
          }
          break;
        case Part::outer_gradient:
        case Part::inner_gradient:
          break;
      }
    });
  }

  REVODE_ON_DEVICE static void retreat_chunk(const CouplingLine& line, const Four& force,
                                             const Four& other, Four& target) {
    REVODE_UNROLL for (int o = 0; o < 4; ++o) target.of[o] =
        retreat_line(line, target.of[o], other.of[o], force.of[o]);
  }
};

/// For every coupling the parts of weights that BlockWeights has, from kernel
/// [num_couplings, c, c, 3, 3].
struct PackForBlocks {
  static constexpr std::string_view name = "pack_for_blocks";
  int num_couplings = 0;
  int channels = 0;
  int padded_channels = 0;
  const float* kernel = nullptr;
  float* forward = nullptr;
  float* adjoint = nullptr;  ///< null for the antisymmetric force

  REVODE_ON_DEVICE std::int64_t size() const {
    return std::int64_t{9} * num_couplings * padded_channels * padded_channels;
  }
  REVODE_ON_DEVICE void operator()(std::int64_t index) const {
    const std::int64_t out = index % padded_channels, tap = index / padded_channels % 9;
    const std::int64_t in = index / padded_channels / 9 % padded_channels;
    const std::int64_t coupling = index / padded_channels / 9 / padded_channels;
    const std::int64_t c = channels;
    const bool is_inside = out < c && in < c;
    const float* const k = kernel + coupling * 9 * c * c;
    const float value = is_inside ? k[(out * c + in) * 9 + tap] : 0;
    const float transposed = is_inside ? k[(in * c + out) * 9 + 8 - tap] : 0;
    if (adjoint != nullptr) {
      forward[index] = value;
      adjoint[index] = transposed;
    } else {
      forward[index] = value - transposed;
    }
  }
  Accesses accesses() const {
    return Accesses()
        .reads(kernel, std::size_t{9} * num_couplings * channels * channels)
        .writes(forward, size())
        .writes(adjoint, size());
  }
};

}  // namespace revode::cuda
