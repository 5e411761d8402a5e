// All couplings of a segment in one launch: a cluster of blocks takes an image through them while
// it stays in their shared memory.
#pragma once

#include <cstdint>
#include <string_view>

#include "backend/cuda/kernels/image_sweep.hpp"

namespace revode::cuda {

/// state <- through the couplings of the range; *notes += this call's.
template <typename Products>
struct AdvanceImages {
  using Image = typename Products::Image;
  using Tile = typename Products::Tile;
  static constexpr std::string_view name = "advance_images";
  struct Registers {
    typename Products::Sums sums;
    int out_of_range, rounded_to_zero;
    float largest;
  };
  ImageSweep<Image> sweep;
  StateNotes* notes = nullptr;  ///< may be null

  REVODE_ON_DEVICE std::int64_t num_clusters() const { return sweep.batch; }
  REVODE_ON_DEVICE int cluster_size() const { return sweep.image.cluster_size; }
  REVODE_ON_DEVICE int num_threads() const { return sweep.image.num_threads; }
  static int num_slots(Force force) { return force == Force::symmetric ? 3 : 2; }
  static std::size_t shared_fours(const Image& image, Force force) {
    return std::size_t{1} * num_slots(force) * image.slot_fours() + 2 * image.step_fours();
  }
  std::size_t shared_fours() const { return shared_fours(sweep.image, sweep.force); }
  /// An image is taken in, goes through the steps of every convolution, and is brought back.
  REVODE_ON_DEVICE int num_phases() const { return 2 + sweep.num_couplings() * steps_a_coupling(); }
  /// Where a slot was written, whose rows other blocks read.
  REVODE_ON_DEVICE bool meets_cluster(int phase) const {
    return phase == 0 || phase == num_phases() - 1 ||
           place_of(phase - 1).part == sweep.image.num_steps - 1;
  }

  REVODE_ON_DEVICE void operator()(int phase, std::int64_t n, int thread,
                                   const ClusterShared& shared, Registers& own) const {
    const Image& image = sweep.image;
    if (phase == 0) {
      clear_borders(image, slots(), thread, shared.own);
      for (int slot = 0; slot < 2; ++slot)
        take_band(image, shared.rank, thread, sweep.image_of(sweep.state, slot, n),
                  shared.own + slot * image.slot_fours());
      own.out_of_range = own.rounded_to_zero = 0;
      own.largest = 0;
      fetch_weights(0, thread, shared);
    } else if (phase < num_phases() - 1) {
      fetch_weights(phase, thread, shared);
      take_step(phase - 1, n, thread, shared, own);
    } else {
      for (int slot = 0; slot < 2; ++slot)
        bring_back_band(image, shared.rank, thread, shared.own + slot * image.slot_fours(),
                        sweep.image_of(sweep.state, slot, n));
      if (sweep.record != nullptr) record_last(n, thread, shared);
      if (notes == nullptr) return;
      raise_atomically(&notes->largest, own.largest);
      if (own.out_of_range > 0) add_atomically(&notes->out_of_range, own.out_of_range);
      if (own.rounded_to_zero > 0) add_atomically(&notes->rounded_to_zero, own.rounded_to_zero);
    }
  }

  bool operator==(const AdvanceImages&) const = default;
  Accesses accesses() const { return sweep.accesses().adds(notes, 1); }

 private:
  REVODE_ON_DEVICE void record_last(std::int64_t n, int thread, const ClusterShared& shared) const {
    const Four* const other = shared.own + sweep.last_other() * sweep.image.slot_fours();
    sweep.for_each_recorded(n, shared.rank, thread,
                            [&](int at, std::int64_t index) { sweep.record[index] = other[at]; });
  }

  REVODE_ON_DEVICE int steps_a_coupling() const {
    return (sweep.is_symmetric() ? 2 : 1) * sweep.image.num_steps;
  }
  struct Place {
    int coupling;
    bool is_second;  ///< of its convolutions
    int part;        ///< of the convolution
  };
  REVODE_ON_DEVICE Place place_of(int step) const {
    const int convolution = step / sweep.image.num_steps;
    return {sweep.range.first + (sweep.is_symmetric() ? convolution / 2 : convolution),
            sweep.is_symmetric() && convolution % 2 != 0,
            step - convolution * sweep.image.num_steps};
  }
  REVODE_ON_DEVICE int slots() const { return sweep.is_symmetric() ? 3 : 2; }

  REVODE_ON_DEVICE void fetch_weights(int step, int thread, const ClusterShared& shared) const {
    const auto [coupling, is_second, part] = place_of(step);
    if (coupling >= sweep.range.last) return;
    const Four* const of_all = is_second ? sweep.weights.adjoint : sweep.weights.forward;
    BlockWeights::fetch(sweep.image, thread, part, sweep.parts(of_all, coupling, part),
                        sweep.weights_at(shared, slots(), step));
  }

  /// hidden <- sigma(K other + b), some chunks of inputs a step; then, symmetric, target <- from
  /// K^T hidden, likewise; antisymmetric: the target at once.
  REVODE_ON_DEVICE void take_step(int step, std::int64_t n, int thread, const ClusterShared& shared,
                                  Registers& own) const {
    const Image& image = sweep.image;
    const Tile tile(image, thread);
    if (tile.is_empty()) return;
    const auto [coupling, is_second, part] = place_of(step);
    const int target = sweep.target_of(coupling);
    const int target_begin = target * image.slot_fours(), hidden_begin = 2 * image.slot_fours();
    const int other_begin = (1 - target) * image.slot_fours();
    if (part == 0)
      own.sums.fill(
          [&](int o) { return is_second ? 0 : sweep.bias_of(coupling, tile.channel + o); });
    add_products(image, shared, is_second ? hidden_begin : other_begin, part,
                 sweep.weights_at(shared, slots(), step), tile, 1, own.sums);
    if (part < image.num_steps - 1) return;
    const CouplingLine line = sweep.line_of(target);
    for_each_chunk(image, tile, own.sums, [&](int p, int chunk, int at, Four force) {
      if (!is_second) REVODE_UNROLL for (int o = 0; o < 4; ++o) force.of[o] = relu(force.of[o]);
      if (!is_second && sweep.is_symmetric()) {
        shared.own[hidden_begin + at] = force;
        return;
      }
      Four value = shared.own[target_begin + at];
      const Four other = shared.own[other_begin + at];
      if (sweep.record != nullptr)
        sweep.record[sweep.record_index(coupling, n, shared.rank, p, chunk)] = value;
      REVODE_UNROLL for (int o = 0; o < 4; ++o) {
        const LineStep stepped = advance_line(line, value.of[o], other.of[o], force.of[o]);
        value.of[o] = stepped.value;
        own.largest = fmaxf(own.largest, fabsf(stepped.value));
        own.out_of_range += stepped.num_out_of_range;
        own.rounded_to_zero += stepped.num_rounded_to_zero;
      }
      shared.own[target_begin + at] = value;
    });
  }
};

}  // namespace revode::cuda
