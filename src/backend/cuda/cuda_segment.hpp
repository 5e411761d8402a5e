// Couplings on a device: convolutions by the device's library, the rest by kernels.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "revode/backend/segment.hpp"
#include "revode/core/buffer.hpp"

#include "backend/cuda/engine.hpp"

namespace revode::cuda {

struct CudaRecording;

class CudaSegment final : public Segment<float> {
 public:
  CudaSegment(const SegmentShape& shape, std::shared_ptr<Engine> engine);

  const SegmentShape& shape() const override { return shape_; }
  std::string description() const override { return "convolutions of the device's library"; }
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
  struct Pair;
  /// What a product takes of an array: its floats, or what is written beside them.
  struct Operand {
    const void* values;
    OperandArray written;
  };
  /// F at a place, and what was made on the way.
  struct Evaluation {
    const void* x = nullptr;  ///< an operand
    const float* hidden = nullptr;
    const void* hidden_operand = nullptr;  ///< for the symmetric force
    const float* force = nullptr;
  };

  int target_slot(int coupling) const { return (shape_.first_target + coupling) % 2; }
  std::size_t size(int batch) const { return batch * shape_.image_size(); }
  ImageShape images(int batch) const;
  Operand operand_of(const float* values, int batch, Scratch rounded);
  const void* round(const float* values, int batch, Scratch rounded);
  OperandArray packed(Buffer<std::byte>& kernels) const;
  void convolve(const Buffer<std::byte>& kernels, int coupling, int batch, const void* x, float* y);
  Evaluation evaluate_force(int coupling, int batch, const float* x, float* hidden);
  void advance_through(CouplingRange range, const Pair& state);
  void advance_through(CouplingRange range, const Pair& state, CudaRecording& recording);
  void advance_line(int coupling, const Pair& state, const Evaluation& at);
  void retreat_through(CouplingRange range, const Pair& state, const Pair& adjoint);
  void retreat_through(CouplingRange range, const CudaRecording& recording, const Pair& adjoint);
  void retreat_adjoint(int coupling, const Evaluation& at, const Pair& adjoint);

  SegmentShape shape_;
  std::shared_ptr<Engine> engine_;
  OperandFormat format_;
  SegmentWeights<float> weights_;
  SegmentGradient gradient_;
  std::size_t kernel_stride_ = 0;  ///< from one packed kernel to the next
  Buffer<std::byte> kernel_;       ///< [num_couplings, c, 3, 3, c]: K, or K - K^T
  /// [num_couplings, c, 3, 3, c]: K^T, for the symmetric force
  Buffer<std::byte> adjoint_kernel_;
  Buffer<float> bias_;        ///< [num_couplings, c]
  Buffer<StateNotes> notes_;  ///< of the call under way
  Buffer<int> overflow_;      ///< 1 + the last coupling whose gradient left the range, or 0
};

}  // namespace revode::cuda
