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
    union {
      typename Products::Sums sums;              ///< in convolutions
      typename Products::GradientSums gradient;  ///< in gradients
    };
  };
  ImageSweep<Image> sweep;
  GradientTiles tiles;
  float* adjoint[2] = {nullptr, nullptr};  ///< [batch, channels, height, width]
  ExactSum* grad_kernel = nullptr;         ///< [num_couplings, c, c, 3, 3]
  ExactSum* grad_bias = nullptr;           ///< [num_couplings, c]
  float limit = 0;                         ///< of one contribution
  int* overflow = nullptr;
  int overflow_first = 0;  ///< the code of coupling 0
  Divisor by_phases{1};    ///< of a coupling

  REVODE_ON_DEVICE std::int64_t num_clusters() const { return sweep.batch; }
  REVODE_ON_DEVICE int cluster_size() const { return sweep.image.cluster_size; }
  REVODE_ON_DEVICE int num_threads() const { return sweep.image.num_threads; }
  static std::size_t shared_fours(const Image& image) {
    return std::size_t{1} * num_slots * image.slot_fours() + 2 * image.step_fours() +
           GradientTiles(image).sums_fours();
  }
  std::size_t shared_fours() const { return shared_fours(sweep.image); }
  REVODE_ON_DEVICE int num_phases() const { return 2 + sweep.num_couplings() * by_phases; }
  /// Behind a convolution, whose result other blocks read; and where the next one overwrites what
  /// they may still be reading for a gradient: the target, which was `other` one coupling ago.
  REVODE_ON_DEVICE bool meets_cluster(int phase) const {
    if (phase == 0 || phase == num_phases() - 1) return true;
    const int within = (phase - 1) % by_phases;
    const Place place = place_of(within);
    if (within < place.end - 1) return false;
    return !is_gradient(place.part) || (place.part == Part::inner_gradient && !has(Part::force));
  }

  REVODE_ON_DEVICE void operator()(int phase, std::int64_t n, int thread,
                                   const ClusterShared& shared, Registers& own) const {
    const Image& image = sweep.image;
    if (phase == 0) {
      clear_borders(image, num_slots, thread, shared.own);
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
      const int number = (phase - 1) / by_phases;
      take_part((phase - 1) % by_phases, number, n, thread, shared, own);
    } else {
      for (int slot = 0; slot < 2; ++slot) {
        bring_back_band(image, shared.rank, thread, shared.own + slot * image.slot_fours(),
                        sweep.image_of(sweep.state, slot, n));
        bring_back_band(image, shared.rank, thread, shared.own + (2 + slot) * image.slot_fours(),
                        sweep.image_of(adjoint, slot, n));
      }
    }
  }

  REVODE_ON_DEVICE int phases_a_coupling() const {
    int sum = 0;
    for (int part = 0; part <= static_cast<int>(Part::inner_gradient); ++part)
      sum += num_phases_of(static_cast<Part>(part));
    return sum;
  }

  bool operator==(const RetreatImages&) const = default;
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

  /// What is done for a coupling, each a convolution in num_steps phases, or a gradient in
  /// those of GradientTiles.
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
    return is_gradient(part) ? tiles.num_phases() : sweep.image.num_steps;
  }
  REVODE_ON_DEVICE int convolutions_a_coupling() const {
    return !sweep.is_symmetric() ? 2 : sweep.recorded == nullptr ? 4 : 3;
  }

  /// For step number `step` of all convolutions of the sweep.
  REVODE_ON_DEVICE void fetch_weights(int step, int thread, const ClusterShared& shared) const {
    const int of_all = step / sweep.image.num_steps, part = step % sweep.image.num_steps;
    const int number = !sweep.is_symmetric()       ? of_all / 2
                       : sweep.recorded == nullptr ? of_all / 4
                                                   : of_all / 3;
    const int coupling = sweep.range.last - 1 - number;
    if (coupling < sweep.range.first) return;
    const int convolution = of_all - number * convolutions_a_coupling();
    // K, K^T, K, K^T; with a record K, K, K^T; antisymmetric K - K^T twice.
    const bool is_adjoint = sweep.is_symmetric() &&
                            (sweep.recorded == nullptr ? convolution % 2 == 1 : convolution == 2);
    BlockWeights::fetch(
        sweep.image, thread, part,
        sweep.parts(is_adjoint ? sweep.weights.adjoint : sweep.weights.forward, coupling, part),
        sweep.weights_at(shared, num_slots, step));
  }

  /// Of a phase of a coupling.
  struct Place {
    Part part;
    int convolutions;  ///< before it
    int begin, end;    ///< of the part
  };
  REVODE_ON_DEVICE Place place_of(int phase) const {
    Place place{static_cast<Part>(0), 0, 0, num_phases_of(static_cast<Part>(0))};
    REVODE_UNROLL for (int k = 0; k < static_cast<int>(Part::inner_gradient); ++k) {
      if (phase < place.end) continue;
      const auto before = static_cast<Part>(k), part = static_cast<Part>(k + 1);
      place.convolutions += has(before) && !is_gradient(before) ? 1 : 0;
      place.part = part;
      place.begin = place.end;
      place.end += num_phases_of(part);
    }
    return place;
  }

  /// Phase `phase` of a coupling, the number-th from the last.
  REVODE_ON_DEVICE void take_part(int phase, int number, std::int64_t n, int thread,
                                  const ClusterShared& shared, Registers& own) const {
    const auto [part, convolutions, begin, end] = place_of(phase);
    phase -= begin;
    const int coupling = sweep.range.last - 1 - number;
    if (is_gradient(part)) {
      take_gradient(part, coupling, phase, thread, shared, own);
    } else {
      const int step =
          (number * convolutions_a_coupling() + convolutions) * sweep.image.num_steps + phase;
      fetch_weights(step + 1, thread, shared);
      convolve(part, coupling, phase, step, n, thread, shared, own);
    }
  }

  REVODE_ON_DEVICE void take_gradient(Part part, int coupling, int phase, int thread,
                                      const ClusterShared& shared, Registers& own) const {
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
        reinterpret_cast<float*>(shared.own + num_slots * slot + 2 * image.step_fours());
    take_gradient_phase(image, tiles, shared, phase, thread, gradient, own.gradient, sums);
  }

  REVODE_ON_DEVICE void convolve(Part part, int coupling, int number, int step, std::int64_t n,
                                 int thread, const ClusterShared& shared, Registers& own) const {
    const Image& image = sweep.image;
    const Tile tile(image, thread);
    if (tile.is_empty()) return;
    const int target = sweep.target_of(coupling), slot = image.slot_fours();
    const int target_begin = target * slot, other_begin = (1 - target) * slot;
    const int hidden_begin = 4 * slot;
    const int from = part == Part::hidden        ? other_begin
                     : part == Part::grad_hidden ? (2 + target) * slot
                                                 : hidden_begin;
    const CouplingLine line = sweep.line_of(target);
    const float factor = part == Part::grad_hidden ? line.scale : 1;
    if (number == 0)
      own.sums.fill([&](int o) {
        return part == Part::hidden ? sweep.bias_of(coupling, tile.channel + o) : 0;
      });
    add_products(image, shared, from, number, sweep.weights_at(shared, num_slots, step), tile,
                 factor, own.sums);
    if (number < image.num_steps - 1) return;

    for_each_chunk(image, tile, own.sums, [&](int p, int chunk, int at, Four product) {
      Four& of_hidden = shared.own[hidden_begin + at];
      Four& of_target = shared.own[target_begin + at];
      Four& of_adjoint_target = shared.own[(2 + target) * slot + at];
      Four& of_adjoint_other = shared.own[(3 - target) * slot + at];
      const Four other = shared.own[other_begin + at];
      switch (part) {
        case Part::hidden:
          REVODE_UNROLL for (int o = 0; o < 4; ++o) product.of[o] = relu(product.of[o]);
          if (sweep.recorded != nullptr)
            of_target = sweep.recorded[sweep.record_index(coupling, n, shared.rank, p, chunk)];
          else if (!sweep.is_symmetric())
            of_target = retreat_chunk(line, product, other, of_target);
          if (!sweep.is_symmetric()) {
            const Four a = of_adjoint_target;
            REVODE_UNROLL for (int o = 0; o < 4; ++o) product.of[o] =
                product.of[o] > 0 ? line.scale * a.of[o] : 0;
          }
          of_hidden = product;
          break;
        case Part::force:
          of_target = retreat_chunk(line, product, other, of_target);
          break;
        case Part::grad_hidden: {
          Four hidden = of_hidden;
          REVODE_UNROLL for (int o = 0; o < 4; ++o) hidden.of[o] =
              hidden.of[o] > 0 ? Products::factor_left(factor) * product.of[o] : 0;
          of_hidden = hidden;
          break;
        }
        case Part::grad_other: {
          // (K - K^T)^T = -(K - K^T)
          Four a = of_adjoint_target, sum = of_adjoint_other;
          REVODE_UNROLL for (int o = 0; o < 4; ++o) {
            const float through_force = sweep.is_symmetric() ? product.of[o] : -product.of[o];
            sum.of[o] = (sum.of[o] + line.beta * a.of[o]) + through_force;
            a.of[o] = line.gamma * a.of[o];
          }
          of_adjoint_other = sum;
          of_adjoint_target = a;
          break;
        }
        case Part::outer_gradient:
        case Part::inner_gradient:
          break;
      }
    });
  }

  REVODE_ON_DEVICE static Four retreat_chunk(const CouplingLine& line, const Four& force,
                                             const Four& other, Four target) {
    REVODE_UNROLL for (int o = 0; o < 4; ++o) target.of[o] =
        retreat_line(line, target.of[o], other.of[o], force.of[o]);
    return target;
  }
};

}  // namespace revode::cuda
