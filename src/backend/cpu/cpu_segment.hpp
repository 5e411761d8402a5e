// A segment on threads: who takes which images, where gradients are summed, what is kept.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/core/buffer.hpp"
#include "revode/core/thread_pool.hpp"

#include "backend/cpu/segment_kernels.hpp"

namespace revode::cpu {

/// What the segments of a backend share: its threads, and scratch that grows to the largest need
/// and does not depend on the number of couplings.
class Engine {
 public:
  explicit Engine(int num_threads) : pool(num_threads), scratch_(num_threads) {}

  /// At least `size` floats for each thread.
  void reserve_scratch(std::size_t size);
  float* scratch(int thread) { return scratch_[thread].data(); }
  /// At least `size` floats for the sums of all lanes.
  float* lane_sums(std::size_t size);

  ThreadPool pool;

 private:
  std::vector<Buffer<float>> scratch_;
  Buffer<float> lane_sums_;
};

/// The lanes in which sums over a batch are formed: lane l adds images [first(l), first(l + 1)) in
/// ascending order, then lanes are added in theirs. A function of the batch size alone.
struct Lanes {
  explicit Lanes(int batch_in) : batch(batch_in), count(batch_in < 16 ? batch_in : 16) {}
  int first(int lane) const {
    return static_cast<int>(static_cast<std::int64_t>(lane) * batch / count);
  }

  int batch;
  int count;
};

/// Where each lane sums the packed gradients of a chunk of couplings: kernels, then biases.
struct LaneSums {
  std::size_t lane_size() const {
    return chunk_size * (planes.packed_kernel_size() + planes.packed_bias_size());
  }
  float* kernel(int lane, int k) const {
    return values + lane * lane_size() + k * planes.packed_kernel_size();
  }
  float* bias(int lane, int k) const {
    return kernel(lane, chunk_size) + k * planes.packed_bias_size();
  }

  Planes planes;
  int num_lanes = 0;
  int chunk_size = 0;  ///< couplings
  float* values = nullptr;
};

class CpuSegment final : public Segment<float> {
 public:
  CpuSegment(const SegmentShape& shape, std::shared_ptr<Engine> engine);

  const SegmentShape& shape() const override { return shape_; }
  std::string description() const override;
  void bind(const SegmentWeights<float>& weights) override { weights_ = weights; }
  void bind_gradient(const SegmentGradient& gradient) override { gradient_ = gradient; }
  void load_weights() override;
  std::unique_ptr<Recording> make_recording(int batch) override;
  std::size_t recording_bytes(int batch) const override;
  void advance(CouplingRange range, StateView<float> state, StateNotes* notes,
               Recording* recording) override;
  void retreat(CouplingRange range, StateView<float> state, StateView<float> adjoint,
               const Recording* recording, OverflowNote overflow) override;
  int couplings_a_chunk() const override;

 private:
  ImageGroup group_of(const StateView<float>& state, int first_image, int num_images) const;
  void add_lane_sums(CouplingRange chunk, const LaneSums& sums, OverflowNote overflow);
  const float* unpack_kernel(const float* packed, float* scratch) const;

  SegmentShape shape_;
  SegmentWeights<float> weights_;
  SegmentGradient gradient_;
  SegmentPlan plan_;
  int images_an_advance_, images_a_retreat_;  ///< at most, in a group
  std::shared_ptr<Engine> engine_;
  Buffer<float> kernel_, adjoint_kernel_, bias_;  ///< packed, by coupling; plan_ points to them
};

}  // namespace revode::cpu
