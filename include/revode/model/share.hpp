// What a rank owns of the network, for one time slice: its rows of all arrays, as flat arrays of
// one map in the backend's memory, and the slice itself. A rank may own several shares.
#pragma once

#include <cstdint>
#include <optional>

#include "revode/backend/backend.hpp"
#include "revode/model/architecture.hpp"
#include "revode/model/gradient_sums.hpp"
#include "revode/model/parameters.hpp"
#include "revode/model/time_slice.hpp"

namespace revode {

template <typename Real>
class Share {
 public:
  /// Initial weights from `seed`. index: the number of the slice, `range` its blocks.
  Share(const Architecture& architecture, int index, BlockRange range, Backend<Real>& backend,
        Activations activations, std::uint64_t seed);
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;

  int index() const { return index_; }
  const ParameterMap& map() const { return map_; }
  TimeSlice<Real>& slice() { return slice_; }

  /// After changing them call slice().load_weights().
  StagedBuffer<Real>& values() { return values_; }
  /// Made when first asked for: evaluation needs none.
  GradientSums<Real>& gradient();
  /// Likewise; zero at first.
  StagedBuffer<Real>& velocity();

 private:
  int index_;
  Backend<Real>& backend_;
  ParameterMap map_;
  StagedBuffer<Real> values_;
  std::optional<GradientSums<Real>> gradient_;
  StagedBuffer<Real> velocity_;
  TimeSlice<Real> slice_;
};

}  // namespace revode
