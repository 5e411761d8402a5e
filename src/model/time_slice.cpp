// The sweeps of a slice: through its segments and the transitions between them, there and back.
#include "revode/model/time_slice.hpp"

#include <algorithm>
#include <utility>

#include "revode/core/error.hpp"

#include "model/stash.hpp"
#include "model/time_slice_ends-inl.hpp"
#include "model/time_slice_notes-inl.hpp"

namespace revode {

namespace {

/// Tells of rows [first, last) of an array, if anybody listens.
template <typename OnGradient>
void tell(const OnGradient& on_gradient, const ParameterEntry& array, std::size_t first,
          std::size_t last) {
  if (on_gradient)
    on_gradient(array.offset + first * array.row_size(), array.offset + last * array.row_size());
}

template <typename OnGradient, typename... Arrays>
void tell_whole(const OnGradient& on_gradient, const Arrays&... arrays) {
  (tell(on_gradient, arrays, 0, static_cast<std::size_t>(arrays.num_rows)), ...);
}

/// So many couplings a chunk, the first of all perhaps fewer; in the order of the backward sweep.
std::vector<CouplingRange> cut(CouplingRange all, int size) {
  std::vector<CouplingRange> chunks;
  for (int last = all.last; last > all.first; last -= size)
    chunks.push_back({std::max(all.first, last - size), last});
  return chunks;
}

/// What a transition gives, both slots one behind the other.
template <typename Real>
StateView<Real> pooled_view(const TransitionShape& shape, Real* state) {
  const std::size_t slot_size =
      std::size_t{1} * shape.batch * shape.out_channels * (shape.height / 2) * (shape.width / 2);
  return {{state, state + slot_size}, shape.batch};
}

}  // namespace

template <typename Real>
TimeSlice<Real>::TimeSlice(const Architecture& architecture, BlockRange range,
                           const ParameterMap& map, Backend<Real>& backend, Activations activations,
                           Real* values)
    : architecture_(architecture),
      range_(range),
      sizes_(slice_sizes(architecture, range)),
      map_(map),
      backend_(backend),
      activations_(activations),
      values_(values) {
  const int num_stages = static_cast<int>(architecture_.stages().size());
  int blocks_before = 0;
  for (int k = 0; k < num_stages; ++k) {
    const auto& entries = map_.stages[k];
    const int end_of_stage = blocks_before + architecture_.stages()[k].blocks;
    if (entries.kernel.num_rows > 0) {
      Piece piece;
      piece.stage = k;
      piece.first_coupling = static_cast<int>(entries.kernel.first_row);
      piece.kernel = &entries.kernel;
      piece.bias = &entries.bias;
      piece.segment = backend_.make_segment(architecture_.segment(
          k, piece.first_coupling, static_cast<int>(entries.kernel.num_rows)));
      piece.segment->bind({values_ + entries.kernel.offset, values_ + entries.bias.offset});
      // The slice that ends a stage does the transition: what it sends is then half as large.
      piece.ends_in_transition = k + 1 < num_stages && range_.last >= end_of_stage;
      pieces_.push_back(std::move(piece));
    }
    blocks_before = end_of_stage;
  }
  REVODE_CHECK(!pieces_.empty(), "a time slice needs at least one block, not blocks {} to {}",
               range.first, range.last);
}

template <typename Real>
TimeSlice<Real>::~TimeSlice() = default;

template <typename Real>
std::vector<typename TimeSlice<Real>::StagePart> TimeSlice<Real>::stage_parts() const {
  std::vector<StagePart> parts;
  for (const Piece& piece : pieces_) parts.push_back({piece.stage, piece.segment.get()});
  return parts;
}

template <typename Real>
std::size_t TimeSlice<Real>::piece_size(const Piece& piece, int batch) const {
  return 2 * batch * piece.segment->shape().image_size();
}

template <typename Real>
StateView<Real> TimeSlice<Real>::view(Real* state, const Piece& piece, int batch) const {
  return {{state, state + batch * piece.segment->shape().image_size()}, batch};
}

template <typename Real>
std::size_t TimeSlice<Real>::stash_bytes(int batch) const {
  std::size_t bytes = batch * sizes_.stash * sizeof(Real);
  if (activations_ == Activations::store)
    for (const Piece& piece : pieces_) bytes += piece.segment->recording_bytes(batch);
  return bytes;
}

template <typename Real>
void TimeSlice<Real>::bind_gradient(ExactSum* gradient) {
  gradient_ = gradient;
  for (Piece& piece : pieces_)
    piece.segment->bind_gradient({gradient + piece.kernel->offset, gradient + piece.bias->offset});
}

template <typename Real>
void TimeSlice<Real>::load_weights() {
  for (Piece& piece : pieces_) piece.segment->load_weights();
}

template <typename Real>
typename TimeSlice<Real>::InFlight& TimeSlice<Real>::in_flight(int micro_batch) {
  std::unique_ptr<InFlight>& kept = in_flight_[micro_batch];
  if (!kept) {
    if (spare_.empty()) {
      kept = std::make_unique<InFlight>();
      kept->states.resize(pieces_.size());
      kept->recordings.resize(pieces_.size());
    } else {
      kept = std::move(spare_.back());
      spare_.pop_back();
    }
  }
  return *kept;
}

// What a transition or the closing takes in can't be rebuilt from what it gives: it must be kept.
// So the segment before it works in the place where it is kept, forward and back, and nothing is
// copied.
template <typename Real>
bool TimeSlice<Real>::is_stashed(const Piece& piece) const {
  return piece.ends_in_transition || (is_last() && &piece == &pieces_.back());
}

template <typename Real>
Real* TimeSlice<Real>::place_of_state(InFlight& kept, std::size_t i, int batch, Real* message) {
  if (!is_stashed(pieces_[i])) return message;
  kept.states[i].ensure(piece_size(pieces_[i], batch), Memory::stash, backend_.space());
  return kept.states[i].data();
}

// How many couplings go at a time: all, unless somebody wants to know of less.
template <typename Real>
int TimeSlice<Real>::couplings_a_chunk(const Piece& piece, bool listened_to) const {
  if (probe_ != nullptr) return architecture_.rule().couplings_per_block;
  return listened_to ? piece.segment->couplings_a_chunk() : piece.segment->shape().num_couplings;
}

// Adjoints need not be kept: a transition takes them from one array to the other, and to the
// caller's in the end. transitions: how many are still to come on the way back.
template <typename Real>
Real* TimeSlice<Real>::place_of_adjoint(std::size_t transitions, int batch, Real* adjoint) {
  if (transitions % 2 == 0) return adjoint;
  scratch_.ensure(batch * sizes_.scratch, Memory::state, backend_.space());
  return scratch_.data();
}

template <typename Real>
void TimeSlice<Real>::copy(Real* to, const Real* from, std::size_t size) {
  if (to != from) backend_.copy(to, from, size * sizeof(Real));
}

template <typename Real>
void TimeSlice<Real>::release(int micro_batch) {
  auto node = in_flight_.extract(micro_batch);
  if (node.empty()) return;
  if (auto* labels = std::exchange(node.mapped()->labels, nullptr))
    labels_.release(*labels, backend_);
  spare_.push_back(std::move(node.mapped()));
}

template <typename Real>
Real* TimeSlice<Real>::images(int micro_batch, int batch) {
  InFlight& kept = in_flight(micro_batch);
  const OpeningShape shape = architecture_.opening(batch);
  kept.images.ensure(std::size_t{1} * batch * shape.in_channels * shape.height * shape.width,
                     Memory::stash, backend_.space());
  return kept.images.data();
}

template <typename Real>
void TimeSlice<Real>::set_labels(int micro_batch, std::span<const std::uint8_t> labels) {
  InFlight& kept = in_flight(micro_batch);
  if (kept.labels != nullptr) labels_.release(*kept.labels, backend_);
  kept.labels = &labels_.send(labels, backend_);
}

template <typename Real>
void TimeSlice<Real>::forward(int micro_batch, int batch, Mode mode, Real* message) {
  InFlight& kept = in_flight(micro_batch);
  num_samples_[micro_batch] = batch;
  Real* state = place_of_state(kept, 0, batch, message);
  if (is_first()) {
    open(kept, micro_batch, batch, mode, state);
  } else {
    const PhaseScope timed(timer_, Phase::stage_forward, pieces_.front().stage);
    copy(state, message, input_size(batch));
  }
  if (measures_reversal_ && mode == Mode::train) {
    kept.front_state.ensure(input_size(batch), Memory::stash, backend_.space());
    copy(kept.front_state.data(), state, input_size(batch));
  }
  const bool checks = checks_reversal_ && mode == Mode::train;
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    if (checks) edge_digests(micro_batch, i).front = digest_of_state(state, piece, batch);
    Recording* recording = nullptr;
    if (mode == Mode::train && activations_ == Activations::store) {
      if (!kept.recordings[i] || kept.recorded_batch < batch) {
        kept.recordings[i].reset();  // so that the old and the new one need not exist together
        kept.recordings[i] = piece.segment->make_recording(batch);
      }
      recording = kept.recordings[i].get();
    }
    if (mode == Mode::inspect) {
      inspect(piece, micro_batch, batch, state);
    } else {
      const PhaseScope timed(timer_, Phase::stage_forward, piece.stage);
      StateNotes* notes =
          mode == Mode::train ? &notes_.data()[micro_batch].states[piece.stage] : nullptr;
      const std::vector<CouplingRange> chunks = cut(piece.all(), couplings_a_chunk(piece, false));
      for (auto range = chunks.rbegin(); range != chunks.rend(); ++range) {
        if (mode == Mode::train)
          show(micro_batch, {block_of(piece, range->first)}, piece, batch, state);
        piece.segment->advance(*range, view(state, piece, batch), notes, recording);
      }
      if (mode == Mode::train)
        show(micro_batch, {block_of(piece, piece.all().last - 1), true}, piece, batch, state);
    }
    if (mode == Mode::train) tell_state("state", piece, batch, state);
    if (checks) {
      edge_digests(micro_batch, i).end = digest_of_state(state, piece, batch);
      if (is_stashed(piece)) tell_state("kept state", piece, batch, state);
    }
    if (!piece.ends_in_transition) continue;
    const PhaseScope timed(timer_, Phase::transition);
    Real* next = i + 1 < pieces_.size() ? place_of_state(kept, i + 1, batch, message) : message;
    const TransitionShape shape = architecture_.transition(piece.stage, batch);
    backend_.transition_forward(shape, view(state, piece, batch), pooled_view(shape, next));
    state = next;
  }
  if (mode == Mode::train) kept.recorded_batch = std::max(kept.recorded_batch, batch);
  if (is_last()) close(kept, micro_batch, batch, mode, state);
  if (mode != Mode::train && !is_last()) release(micro_batch);
}

template <typename Real>
void TimeSlice<Real>::backward(int micro_batch, int batch, int mini_batch, Real* message,
                               Real* message_adjoint, const OnGradient& on_gradient) {
  REVODE_CHECK(gradient_ != nullptr, "micro-batch {} goes back with no gradient bound",
               micro_batch);
  InFlight& kept = in_flight(micro_batch);
  std::size_t transitions =
      is_last()
          ? pieces_.size() - 1
          : static_cast<std::size_t>(std::ranges::count_if(pieces_, &Piece::ends_in_transition));
  Real* adjoint = place_of_adjoint(transitions, batch, message_adjoint);
  if (is_last()) {
    begin_backward(kept, micro_batch, batch, mini_batch, adjoint);
    tell_whole(on_gradient, map_.closing_bias, map_.closing_weight, map_.closing_norm.shift,
               map_.closing_norm.scale);
  } else {
    const PhaseScope timed(timer_, Phase::stage_back, pieces_.back().stage);
    copy(adjoint, message_adjoint, output_size(batch));
  }
  Real* state = nullptr;
  for (std::size_t i = pieces_.size(); i-- > 0;) {
    const Piece& piece = pieces_[i];
    if (piece.ends_in_transition) {
      // adjoint <- transition^T adjoint
      const PhaseScope timed(timer_, Phase::transition);
      const TransitionShape shape = architecture_.transition(piece.stage, batch);
      Real* unpooled = place_of_adjoint(--transitions, batch, message_adjoint);
      backend_.transition_backward(shape, pooled_view(shape, adjoint),
                                   view(unpooled, piece, batch));
      adjoint = unpooled;
    }
    // state, adjoint, gradient: back through the couplings
    state = place_of_state(kept, i, batch, message);
    const PhaseScope timed(timer_, Phase::stage_back, piece.stage);
    const Recording* recording =
        activations_ == Activations::store ? kept.recordings[i].get() : nullptr;
    show(micro_batch, {block_of(piece, piece.all().last - 1), true}, piece, batch, state, adjoint);
    if (checks_reversal_) check_end(i, micro_batch, batch, state);
    const int size = couplings_a_chunk(piece, static_cast<bool>(on_gradient));
    for (const CouplingRange range : cut(piece.all(), size)) {
      piece.segment->retreat(range, view(state, piece, batch), view(adjoint, piece, batch),
                             recording, overflow_note(micro_batch, layer_of(piece, 0)));
      show(micro_batch, {block_of(piece, range.first)}, piece, batch, state, adjoint);
      tell(on_gradient, *piece.kernel, range.first, range.last);
    }
    tell_whole(on_gradient, *piece.bias);
    if (checks_reversal_) check_front(i, micro_batch, batch, state);
  }
  if (measures_reversal_)
    backend_.compare(input_size(batch), state, kept.front_state.data(),
                     &notes_.data()[micro_batch].reversal);
  if (is_first()) {
    finish_backward(kept, micro_batch, batch, state, adjoint);
    tell_whole(on_gradient, map_.opening_norm.shift, map_.opening_norm.scale, map_.opening_kernel);
  } else {
    const PhaseScope timed(timer_, Phase::stage_back, pieces_.front().stage);
    copy(message, state, input_size(batch));
  }
  release(micro_batch);
}

template class TimeSlice<float>;
template class TimeSlice<double>;

}  // namespace revode
