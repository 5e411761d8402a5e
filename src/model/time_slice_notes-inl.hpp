// A part of time_slice.cpp. What a sweep finds: losses, counts, overflows, layers that are not
// finite. Noted by the backend, fetched once.
#pragma once

#include "revode/core/digest.hpp"

#include "model/stash.hpp"

namespace revode {

template <typename Real>
void TimeSlice<Real>::begin_sweep(int num_micro_batches) {
  num_micro_batches_ = num_micro_batches;
  notes_.ensure(num_micro_batches, Memory::workspace, backend_);
  backend_.zero(notes_.data(), notes_.bytes());
  num_samples_.assign(num_micro_batches, 0);
  found_.clear();
  damage_.clear();
  if (checks_reversal_) edge_digests_.assign(num_micro_batches * pieces_.size(), {});
  opening_statistics_.counts.clear();
  closing_statistics_.counts.clear();
}

template <typename Real>
void TimeSlice<Real>::finish_sweep() {
  notes_.fetch();
}

template <typename Real>
void TimeSlice<Real>::take_notes() {
  const std::span<const MicroBatchNotes> notes = notes_.host();
  found_.assign(notes.begin(), notes.begin() + num_micro_batches_);
  // Out of range the sum is an ordinary one, and a state is rebuilt approximately.
  std::erase_if(damage_, [&](const ReversalDamage& damage) {
    return !damage.was_kept && found_[damage.micro_batch].range_counts().out_of_range > 0;
  });
}

// Waits for it.
template <typename Real>
std::uint64_t TimeSlice<Real>::digest_of_state(const Real* state, const Piece& piece, int batch) {
  const std::size_t size = piece_size(piece, batch);
  if (!backend_.space().host_accessible()) {
    looked_at_.ensure(size, Memory::workspace, backend_.staging());
    backend_.copy_out(looked_at_.data(), state, size * sizeof(Real));
    state = looked_at_.data();
  }
  backend_.wait(backend_.mark());
  return digest_of(std::span<const Real>(state, size));
}

template <typename Real>
typename TimeSlice<Real>::EdgeDigests& TimeSlice<Real>::edge_digests(int micro_batch,
                                                                     std::size_t piece) {
  return edge_digests_[micro_batch * pieces_.size() + piece];
}

// The state that a piece is rewound from. What was not kept here comes from the next slice, which
// has looked at it itself.
template <typename Real>
void TimeSlice<Real>::check_end(std::size_t piece, int micro_batch, int batch, const Real* state) {
  EdgeDigests& digests = edge_digests(micro_batch, piece);
  digests.end_is_same = digest_of_state(state, pieces_[piece], batch) == digests.end;
  if (!digests.end_is_same && is_stashed(pieces_[piece])) note_damage(piece, micro_batch, true);
}

// The state that it was rewound to. From another end it can't be the same.
template <typename Real>
void TimeSlice<Real>::check_front(std::size_t piece, int micro_batch, int batch,
                                  const Real* state) {
  const EdgeDigests& digests = edge_digests(micro_batch, piece);
  if (digests.end_is_same && digest_of_state(state, pieces_[piece], batch) != digests.front)
    note_damage(piece, micro_batch, false);
}

template <typename Real>
void TimeSlice<Real>::note_damage(std::size_t piece, int micro_batch, bool was_kept) {
  const Piece& where = pieces_[piece];
  damage_.push_back({.micro_batch = micro_batch,
                     .first_block = block_of(where, 0),
                     .last_block = block_of(where, where.all().last - 1),
                     .was_kept = was_kept});
}

template <typename Real>
std::optional<ReversalDamage> TimeSlice<Real>::reversal_damage() const {
  return damage_.empty() ? std::nullopt : std::optional(damage_.front());
}

// Tests flip bits of a state there.
template <typename Real>
void TimeSlice<Real>::tell_state(std::string_view what, const Piece& piece, int batch,
                                 Real* state) {
  if (backend_.space().host_accessible())
    tell_guarded(what, std::span<Real>(state, piece_size(piece, batch)));
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
  for (const MicroBatchNotes& notes : found_) sum += notes.range_counts();
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
