// What a rank owns of the network, for one time slice: its rows of all arrays, as flat buffers of
// one map, and the slice itself. A rank may own several shares.
#pragma once

#include <cstdint>

#include "revode/backend/backend.hpp"
#include "revode/core/buffer.hpp"
#include "revode/model/architecture.hpp"
#include "revode/model/gradient_sums.hpp"
#include "revode/model/parameters.hpp"
#include "revode/model/time_slice.hpp"

namespace revode {

class Share {
 public:
  /// Initial weights from `seed`. index: the number of the slice, `range` its blocks.
  Share(const Architecture& architecture, int index, BlockRange range, Backend<float>& backend,
        Activations activations, std::uint64_t seed);
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;

  int index() const { return index_; }
  const ParameterMap& map() const { return map_; }
  TimeSlice<float>& slice() { return slice_; }

  /// After changing them call slice().load_weights().
  Buffer<float>& values() { return values_; }
  /// Made when first asked for: evaluation needs none.
  GradientSums& gradient();
  /// Likewise; zero at first.
  Buffer<float>& velocity();

 private:
  int index_;
  ParameterMap map_;
  Buffer<float> values_;
  GradientSums gradient_;
  Buffer<float> velocity_;
  TimeSlice<float> slice_;
};

}  // namespace revode
