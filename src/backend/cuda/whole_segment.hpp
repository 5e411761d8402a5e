// Couplings on a device by kernels that take an image through all of them in one launch, where its
// state fits into the shared memory of a cluster of blocks.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "revode/backend/segment.hpp"
#include "revode/core/buffer.hpp"

#include "backend/cuda/engine.hpp"

namespace revode::cuda {

/// How images of this shape lie in clusters; empty where they do not fit. Depends on the shape and
/// the limits alone.
struct ImageLayout {
  ImageBlocks image;
  int channels_a_thread = 0;  ///< 4 or 8
};
std::optional<ImageLayout> lay_out_advance(const SegmentShape& shape, const ClusterLimits& limits);
std::optional<ImageLayout> lay_out_retreat(const SegmentShape& shape, const ClusterLimits& limits);

class WholeSegment final : public Segment<float> {
 public:
  WholeSegment(const SegmentShape& shape, const ImageLayout& advance, const ImageLayout& retreat,
               std::shared_ptr<Engine> engine);

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
  ImageSweep sweep(CouplingRange range, const ImageLayout& layout, StateView<float> state) const;

  SegmentShape shape_;
  ImageLayout advance_, retreat_;
  std::shared_ptr<Engine> engine_;
  SegmentWeights<float> weights_;
  SegmentGradient gradient_;
  Buffer<float> forward_, adjoint_;  ///< see BlockWeights
  Buffer<float> bias_;               ///< [num_couplings, c]
};

}  // namespace revode::cuda
