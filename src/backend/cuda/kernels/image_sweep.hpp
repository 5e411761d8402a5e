// What the kernels that take an image through all couplings of a segment have in common: the shape,
// the lines, the weights as they are packed for them, and what is recorded. See backend/segment.hpp
// for the equations.
#pragma once

#include <cstdint>
#include <string_view>

#include "revode/backend/segment.hpp"

#include "backend/cuda/kernels/coupling.hpp"
#include "backend/cuda/kernels/image_blocks.hpp"

namespace revode::cuda {

/// What sweeps of both directions have. An image lies in blocks as ImageBlocks says, or
/// TensorBlocks.
template <typename Image>
struct ImageSweep {
  Image image;
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
    for (int k = thread; k < image.num_fours(); k += image.num_threads) {
      const int p = k / image.num_chunks, q = k % image.num_chunks;
      f(image.index(p, q), record_index(range.last, n, rank, p, q));
    }
  }
  /// Weights of a step of a coupling's convolution.
  REVODE_ON_DEVICE const Four* parts(const Four* of_all, int coupling, int step) const {
    return of_all + std::int64_t{1} * coupling * image.coupling_fours() + image.step_begin(step);
  }
  /// Where a block's memory has the weights of every other step.
  REVODE_ON_DEVICE Four* weights_at(const ClusterShared& shared, int num_slots, int step) const {
    return shared.own + num_slots * image.slot_fours() + step % 2 * image.step_fours();
  }
  REVODE_ON_DEVICE float bias_of(int coupling, int channel) const {
    return channel < image.channels ? weights.bias[coupling * image.channels + channel] : 0;
  }

  bool operator==(const ImageSweep&) const = default;
  Accesses accesses() const {
    const std::size_t couplings = range.last;
    const std::size_t fours = couplings * image.coupling_fours();
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
    // [num_couplings, chunks of inputs, chunks of outputs, 4 inputs, 9, 4 outputs]
    const std::int64_t chunks = padded_channels / 4, of_chunks = index / (4 * 9 * 4);
    const std::int64_t tap = index / 4 % 9, coupling = of_chunks / chunks / chunks;
    const std::int64_t out = of_chunks % chunks * 4 + index % 4;
    const std::int64_t in = of_chunks / chunks % chunks * 4 + index / (4 * 9) % 4;
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
  bool operator==(const PackForBlocks&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(kernel, std::size_t{9} * num_couplings * channels * channels)
        .writes(forward, size())
        .writes(adjoint, size());
  }
};

}  // namespace revode::cuda
