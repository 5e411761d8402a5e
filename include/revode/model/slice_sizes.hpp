// What a time slice works in and keeps, from shapes alone: a slice allocates by it, and what a run
// will need is known by it before anything is made.
#pragma once

#include <cstddef>

#include "revode/model/architecture.hpp"

namespace revode {

/// Elements an image.
struct SliceSizes {
  std::size_t input = 0;    ///< the state that enters (unused on the first slice)
  std::size_t output = 0;   ///< the state that leaves (unused on the last)
  std::size_t message = 0;  ///< the larger of what enters and leaves by messages
  std::size_t adjoint = 0;  ///< the largest adjoint there is in the slice, or leaves it
  std::size_t scratch = 0;  ///< a second one, for transitions
  /// What is kept of a micro-batch from the forward to the backward sweep, recordings
  /// (Activations::store) not included: images on the first slice, what a transition or the closing
  /// takes in.
  std::size_t stash = 0;
};
SliceSizes slice_sizes(const Architecture& architecture, BlockRange slice);

}  // namespace revode
