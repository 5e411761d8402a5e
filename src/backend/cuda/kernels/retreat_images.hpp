// All couplings of a segment in one launch, backwards: a cluster of blocks takes an image and its
// adjoint back through them and sums the gradients.
#pragma once

#include <cstdint>
#include <string_view>

#include "backend/cuda/kernels/image_sweep.hpp"

namespace revode::cuda {

/// state and adjoint <- back through the couplings of the range; the gradients of each image are
/// contributions of their own, one or two an entry and block.
template <typename Products>
struct RetreatImages {
  using Image = typename Products::Image;
  using Tile = typename Products::Tile;
  using GradientTiles = typename Products::GradientTiles;
  static constexpr std::string_view name = "retreat_images";
  struct Registers {
    Tile tile;
    typename Products::Sums sums;
  };
  ImageSweep<Image> sweep;
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
  static std::size_t shared_fours(const Image& image, const GradientTiles& tiles) {
    return std::size_t{1} * num_slots * image.slot_fours() + 2 * image.weight_fours() +
           tiles.sums_fours();
  }
  std::size_t shared_fours() const { return shared_fours(sweep.image, tiles); }
  REVODE_ON_DEVICE int num_phases() const {
    return 2 + sweep.num_couplings() * phases_a_coupling();
  }

  REVODE_ON_DEVICE void operator()(int phase, std::int64_t n, int thread,
                                   const ClusterShared& shared, Registers& own) const {
    const Image& image = sweep.image;
    if (phase == 0) {
      own.tile = Tile(image, thread);
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
    const Image& image = sweep.image;
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

  /// What is done for a coupling, each a convolution in num_steps() phases, or a gradient in
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
    return is_gradient(part) ? 2 * tiles.num_passes : sweep.image.num_steps();
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
    const int steps = convolutions_a_coupling() * sweep.image.num_steps();
    const int coupling = sweep.range.last - 1 - step / steps;
    if (coupling < sweep.range.first) return;
    const int convolution = step % steps / sweep.image.num_steps();
    // K, K^T, K, K^T; with a record K, K, K^T; antisymmetric K - K^T twice.
    const bool is_adjoint = sweep.is_symmetric() &&
                            (sweep.recorded == nullptr ? convolution % 2 == 1 : convolution == 2);
    BlockWeights::fetch(sweep.image, thread,
                        sweep.part(is_adjoint ? sweep.weights.adjoint : sweep.weights.forward,
                                   coupling, step % sweep.image.num_steps()),
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
          (number * convolutions_a_coupling() + convolutions) * sweep.image.num_steps() + phase;
      fetch_weights(step + 1, thread, shared);
      convolve(static_cast<Part>(part), coupling, phase, step, n, shared, own);
    }
  }

  REVODE_ON_DEVICE void take_gradient(Part part, int coupling, int phase, int thread,
                                      const ClusterShared& shared) const {
    const Image& image = sweep.image;
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
                                 const ClusterShared& shared, Registers& own) const {
    const Image& image = sweep.image;
    const Tile& tile = own.tile;
    if (tile.is_empty()) return;
    const int target = sweep.target_of(coupling), slot = image.slot_fours();
    const int target_begin = target * slot, other_begin = (1 - target) * slot;
    const int hidden_begin = 4 * slot;
    const int from = part == Part::hidden        ? other_begin
                     : part == Part::grad_hidden ? (2 + target) * slot
                                                 : hidden_begin;
    const CouplingLine line = sweep.line_of(target);
    const float factor = part == Part::grad_hidden ? line.scale : 1;
    if (q == 0) own.sums.clear();
    add_products(image, shared, from, q, sweep.weights_at(shared, num_slots, step), tile, factor,
                 own.sums);
    if (q < image.num_steps() - 1) return;

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
              hidden.of[o] > 0 ? Products::factor_left(factor) * product.of[o] : 0;
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

}  // namespace revode::cuda
