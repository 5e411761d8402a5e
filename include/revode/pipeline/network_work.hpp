// One mini-batch through a rank's slices: images and labels in, losses and gradients out.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "revode/core/phase_timer.hpp"
#include "revode/core/trace.hpp"
#include "revode/model/time_slice.hpp"
#include "revode/pipeline/placement.hpp"
#include "revode/pipeline/slice_work.hpp"

namespace revode {

/// Where a mini-batch comes from. `images` is called on the first rank of a replica, `labels` on
/// the last.
struct MiniBatchSource {
  std::vector<int> micro_batches;  ///< their sizes
  /// Fills [batch, channels, height, width] of a micro-batch by calls of the backend, in whose
  /// memory it is.
  std::function<void(int micro_batch, Backend<float>& backend, float* images)> images;
  std::function<std::span<const std::uint8_t>(int micro_batch)> labels;

  int size() const;
  /// Samples in front of a micro-batch's.
  int first_sample(int micro_batch) const;
};

/// What the closing made of each micro-batch, by its number; empty but on the last rank.
struct SweepResult {
  std::vector<MicroBatchResult> micro_batches;

  /// Added up in micro-batch order.
  MicroBatchResult total() const;
};

using OnLogits = std::function<void(int micro_batch, std::span<const float> logits)>;

/// Told while a sweep goes back which gradients are complete.
class GradientListener {
 public:
  virtual ~GradientListener() = default;
  /// The micro-batches of the sweep add no more to entries [first, last) of a slice's flat
  /// gradient.
  virtual void complete(int slice, std::size_t first, std::size_t last) = 0;
  /// Called now and then while kernels work.
  virtual void progress() = 0;
};

/// Who looks on during a sweep; each may be missing.
struct SweepObservers {
  OnLogits on_logits = {};  ///< on the last rank of a replica, after each forward
  GradientListener* gradients = nullptr;
  PhaseTimer* timer = nullptr;
  TraceRecorder* trace = nullptr;
};

class NetworkWork final : public SliceWork {
 public:
  /// Begins the sweep. slices: this rank's, ascending. micro_batches: the source's that pass
  /// through here; the work counts them from 0. All must outlive this object.
  NetworkWork(const Placement& placement, int rank, const std::vector<TimeSlice<float>*>& slices,
              Backend<float>& backend, const MiniBatchSource& source,
              std::vector<int> micro_batches, Mode mode, SweepObservers observers);

  std::size_t input_size(int slice, int micro_batch) const override;
  std::size_t output_size(int slice, int micro_batch) const override;
  int number_of(int micro_batch) const override { return micro_batches_[micro_batch]; }
  void compute(const Work& work, float* state, float* adjoint) override;

  /// That slices have taken so far, forward and back.
  double work_seconds() const { return work_seconds_; }

  /// After all of the work: what the slices found goes to the host. Queued.
  void finish();
  /// After finish(): waits for it. Zeros for micro-batches that did not pass through here.
  SweepResult result();

 private:
  TimeSlice<float>& own(int slice) const { return *slices_[slice]; }
  void forward(TimeSlice<float>& slice, const Work& work, float* state);
  void backward(TimeSlice<float>& slice, const Work& work, float* state, float* adjoint);
  template <typename Action>
  void count_work(const Work& work, Action&& action);

  std::vector<TimeSlice<float>*> slices_;  // by the number of the slice; others are null
  Backend<float>& backend_;
  const MiniBatchSource& source_;
  std::vector<int> micro_batches_;  // the source's number of each
  int num_micro_batches_;           // of the source
  int mini_batch_;
  Mode mode_;
  SweepObservers observers_;
  std::vector<int> backs_left_;  // by slice
  double work_seconds_ = 0;
};

}  // namespace revode
