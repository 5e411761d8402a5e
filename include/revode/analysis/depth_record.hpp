// What passes a network in one training sweep, at every edge of a block: the states on the way
// forward, how exactly they were rebuilt on the way back, and the adjoint that went with them.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/model/time_slice.hpp"

namespace revode {

/// For a sweep of one micro-batch. Keeps a copy of every state in host memory: of a block's, for
/// each image, twice channels x height x width.
class DepthRecord : public Probe<float> {
 public:
  /// queue: of the backend that sweeps.
  DepthRecord(int batch, CallQueue& queue) : batch_(batch), queue_(queue) {}

  void see_state(int micro_batch, BlockEdge edge, std::span<const float> state) override;
  void see_adjoint(int micro_batch, BlockEdge edge, std::span<const float> state,
                   std::span<const float> adjoint) override;

  int batch() const { return batch_; }
  /// The state of one image, [2][channels, height, width]; slot 0 first.
  std::vector<float> state(BlockEdge edge, int image) const;
  /// Euclidean norm of the adjoint of one image, both slots.
  double adjoint_norm(BlockEdge edge, int image) const;
  /// Of all images: the state as it was rebuilt with the one that there had been.
  const Comparison& reversal(BlockEdge edge) const { return edges_.at(edge).reversal; }

 private:
  struct Edge {
    std::vector<float> state;  ///< [2][batch, channels, height, width]
    std::vector<double> adjoint_norms;
    Comparison reversal;
  };
  std::vector<float> fetch(std::span<const float> values);

  int batch_;
  CallQueue& queue_;
  std::map<BlockEdge, Edge> edges_;
};

}  // namespace revode
