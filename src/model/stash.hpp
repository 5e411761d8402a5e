// What a time slice is made of, and what it keeps of a micro-batch from the forward to the backward
// sweep. Private to time_slice.cpp and its parts.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "revode/model/time_slice.hpp"

namespace revode {

template <typename Real>
struct TimeSlice<Real>::Piece {
  int stage = 0;
  int first_coupling = 0;  // within the stage
  const ParameterEntry* kernel = nullptr;
  const ParameterEntry* bias = nullptr;
  std::unique_ptr<Segment<Real>> segment;
  bool ends_in_transition = false;

  CouplingRange all() const { return {0, segment->shape().num_couplings}; }
};

template <typename Real>
struct TimeSlice<Real>::InFlight {
  Buffer<Real> images;                                 // first slice
  std::vector<Buffer<Real>> states;                    // by piece, where it is stashed
  std::vector<std::unique_ptr<Recording>> recordings;  // by piece, with Activations::store
  int recorded_batch = 0;
  Buffer<Real> front_state;  // where the reversal is measured
  // last slice
  SentArrays<std::uint8_t>::Sent* labels = nullptr;  // until it is released
  StagedBuffer<Real> logits;
  std::size_t num_logits = 0;
  Buffer<Real> grad_logits;
  Buffer<double> probabilities;  // [batch, classes]
};

}  // namespace revode
