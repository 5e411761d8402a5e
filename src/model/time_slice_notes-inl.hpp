// A part of time_slice.cpp. What a sweep finds: losses, counts, overflows, layers that are not
// finite. Noted by the backend, fetched once.
#pragma once

#include "model/stash.hpp"

namespace revode {

template <typename Real>
void TimeSlice<Real>::begin_sweep(int num_micro_batches) {
  num_micro_batches_ = num_micro_batches;
  notes_.ensure(num_micro_batches, Memory::workspace, backend_);
  backend_.zero(notes_.data(), notes_.bytes());
  num_samples_.assign(num_micro_batches, 0);
  found_.clear();
  opening_statistics_.counts.clear();
  closing_statistics_.counts.clear();
}

template <typename Real>
void TimeSlice<Real>::finish_sweep() {
  notes_.fetch();
  const std::span<const MicroBatchNotes> notes = notes_.host();
  found_.assign(notes.begin(), notes.begin() + num_micro_batches_);
}

template <typename Real>
OverflowNote TimeSlice<Real>::overflow_note(int micro_batch, int first_layer) {
  return {&notes_.data()[micro_batch].overflow, 1 + first_layer};
}

template <typename Real>
void TimeSlice<Real>::find_non_finite(int micro_batch, const Real* values, std::size_t size,
                                      int layer) {
  backend_.find_non_finite(size, values, 1 + layer, &notes_.data()[micro_batch].non_finite);
}

/// The layer of coupling j of a piece (Architecture::layer_name).
template <typename Real>
int TimeSlice<Real>::layer_of(const Piece& piece, int j) const {
  return 1 + architecture_.stages()[piece.stage].first_coupling + piece.first_coupling + j;
}

/// The block, over all stages, of coupling j of a piece.
template <typename Real>
int TimeSlice<Real>::block_of(const Piece& piece, int j) const {
  return (layer_of(piece, j) - 1) / architecture_.rule().couplings_per_block;
}

// Shows the probe, if there is one, an edge of a block.
template <typename Real>
void TimeSlice<Real>::show(int micro_batch, BlockEdge edge, const Piece& piece, int batch,
                           const Real* state, const Real* adjoint) {
  if (probe_ == nullptr) return;
  const std::size_t size = piece_size(piece, batch);
  if (adjoint == nullptr) {
    probe_->see_state(micro_batch, edge, {state, size});
  } else {
    probe_->see_adjoint(micro_batch, edge, {state, size}, {adjoint, size});
  }
}

// One coupling at a time, looking at the state after each.
template <typename Real>
void TimeSlice<Real>::inspect(const Piece& piece, int micro_batch, int batch, Real* state) {
  for (int j = 0; j < piece.segment->shape().num_couplings; ++j) {
    piece.segment->advance({j, j + 1}, view(state, piece, batch), nullptr, nullptr);
    find_non_finite(micro_batch, state, piece_size(piece, batch), layer_of(piece, j));
  }
}

template <typename Real>
MicroBatchResult TimeSlice<Real>::result(int micro_batch) const {
  const LossSums& loss = found_[micro_batch].loss;
  return {loss.loss, loss.num_correct, num_samples_[micro_batch]};
}

template <typename Real>
RangeCounts TimeSlice<Real>::range_counts() const {
  RangeCounts sum;
  for (const MicroBatchNotes& notes : found_)
    for (const StateNotes& of_stage : notes.states) sum += of_stage;
  return sum;
}

template <typename Real>
std::vector<float> TimeSlice<Real>::largest_states() const {
  std::vector<float> largest(architecture_.stages().size());
  for (const MicroBatchNotes& notes : found_)
    for (std::size_t stage = 0; stage < largest.size(); ++stage)
      largest[stage] = std::max(largest[stage], notes.states[stage].largest);
  return largest;
}

template <typename Real>
Comparison TimeSlice<Real>::reversal() const {
  Comparison sum;
  for (const MicroBatchNotes& notes : found_) sum += notes.reversal;
  return sum;
}

template <typename Real>
std::optional<GradientOverflow> TimeSlice<Real>::gradient_overflow() const {
  for (std::size_t m = 0; m < found_.size(); ++m)
    if (found_[m].overflow != 0)
      return GradientOverflow{static_cast<int>(m), found_[m].overflow - 1};
  return std::nullopt;
}

template <typename Real>
std::optional<NonFiniteLayer> TimeSlice<Real>::non_finite_layer() const {
  for (std::size_t m = 0; m < found_.size(); ++m)
    if (found_[m].non_finite != 0)
      return NonFiniteLayer{static_cast<int>(m), found_[m].non_finite - 1};
  return std::nullopt;
}

}  // namespace revode
