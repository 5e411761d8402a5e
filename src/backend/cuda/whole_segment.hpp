// Couplings on a device by kernels that take an image through all of them in one launch, where its
// state fits into the shared memory of a cluster of blocks.
#pragma once

#include <memory>
#include <optional>

#include "revode/backend/segment.hpp"

#include "backend/cuda/engine.hpp"

namespace revode::cuda {

/// How many blocks of a cluster an image takes, there and back.
struct BlocksAnImage {
  int advance = 0;
  int retreat = 0;

  friend bool operator==(const BlocksAnImage&, const BlocksAnImage&) = default;
};

/// Of a batch, so that it keeps the device busy; the states' bits do not depend on it. Empty where
/// an image does not fit.
std::optional<BlocksAnImage> blocks_an_image(const SegmentShape& shape, int batch,
                                             const ClusterLimits& limits);

/// Null where an image does not fit.
std::unique_ptr<Segment<float>> make_whole_segment(const SegmentShape& shape,
                                                   std::shared_ptr<Engine> engine);

}  // namespace revode::cuda
