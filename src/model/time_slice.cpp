#include "revode/model/time_slice.hpp"

#include <algorithm>
#include <utility>

#include "revode/core/error.hpp"

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
  StagedBuffer<Real> images;                           // first slice
  std::vector<Buffer<Real>> states;                    // by piece, where it is stashed
  std::vector<std::unique_ptr<Recording>> recordings;  // by piece, with Activations::store
  int recorded_batch = 0;
  Buffer<Real> front_state;  // where the reversal is measured
  // last slice
  StagedBuffer<std::uint8_t> labels;
  StagedBuffer<Real> logits;
  std::size_t num_logits = 0;
  Buffer<Real> grad_logits;
  Buffer<double> probabilities;  // [batch, classes]
};

namespace {

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
std::size_t TimeSlice<Real>::input_size(int batch) const {
  return piece_size(pieces_.front(), batch);
}

template <typename Real>
std::size_t TimeSlice<Real>::output_size(int batch) const {
  const Piece& last = pieces_.back();
  if (!last.ends_in_transition) return piece_size(last, batch);
  const Stage& next = architecture_.stages()[last.stage + 1];
  return std::size_t{2} * batch * next.channels * next.plane_size();
}

template <typename Real>
std::size_t TimeSlice<Real>::message_capacity(int batch) const {
  return std::max(is_first() ? 0 : input_size(batch), is_last() ? 0 : output_size(batch));
}

template <typename Real>
std::size_t TimeSlice<Real>::adjoint_capacity(int batch) const {
  std::size_t most = output_size(batch);
  for (const Piece& piece : pieces_) most = std::max(most, piece_size(piece, batch));
  return most;
}

template <typename Real>
std::size_t TimeSlice<Real>::stash_bytes(int batch) const {
  std::size_t elements = 0;
  if (is_first())
    elements += std::size_t{1} * batch * architecture_.image_channels() *
                architecture_.stages().front().plane_size();
  for (const Piece& piece : pieces_)
    if (is_stashed(piece)) elements += piece_size(piece, batch);
  return elements * sizeof(Real);
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

// Adjoints need not be kept: a transition takes them from one array to the other, and to the
// caller's in the end. transitions: how many are still to come on the way back.
template <typename Real>
Real* TimeSlice<Real>::place_of_adjoint(std::size_t transitions, int batch, Real* adjoint) {
  if (transitions % 2 == 0) return adjoint;
  scratch_.ensure(adjoint_capacity(batch), Memory::state, backend_.space());
  return scratch_.data();
}

template <typename Real>
void TimeSlice<Real>::copy(Real* to, const Real* from, std::size_t size) {
  if (to != from) backend_.copy(to, from, size * sizeof(Real));
}

template <typename Real>
void TimeSlice<Real>::release(int micro_batch) {
  auto node = in_flight_.extract(micro_batch);
  if (!node.empty()) spare_.push_back(std::move(node.mapped()));
}

template <typename Real>
Real* TimeSlice<Real>::images(int micro_batch, int batch) {
  InFlight& kept = in_flight(micro_batch);
  const OpeningShape shape = architecture_.opening(batch);
  kept.images.ensure(std::size_t{1} * batch * shape.in_channels * shape.height * shape.width,
                     Memory::stash, backend_);
  return kept.images.host().data();
}

template <typename Real>
void TimeSlice<Real>::set_labels(int micro_batch, std::span<const std::uint8_t> labels) {
  InFlight& kept = in_flight(micro_batch);
  kept.labels.ensure(labels.size(), Memory::workspace, backend_);
  std::ranges::copy(labels, kept.labels.host().begin());
  kept.labels.store(labels.size());
}

template <typename Real>
OpeningWeights<Real> TimeSlice<Real>::opening_weights() const {
  return {values_ + map_.opening_kernel.offset, values_ + map_.opening_norm.scale.offset,
          values_ + map_.opening_norm.shift.offset};
}

template <typename Real>
ClosingWeights<Real> TimeSlice<Real>::closing_weights() const {
  return {values_ + map_.closing_norm.scale.offset, values_ + map_.closing_norm.shift.offset,
          values_ + map_.closing_weight.offset, values_ + map_.closing_bias.offset};
}

template <typename Real>
NormStatistics TimeSlice<Real>::statistics_of(SweepStatistics& norm, int num_features,
                                              int micro_batch) {
  const std::size_t size = static_cast<std::size_t>(num_micro_batches_) * num_features;
  norm.values.ensure(2 * size, Memory::workspace, backend_.space());
  double* const mean = norm.values.data() + static_cast<std::size_t>(micro_batch) * num_features;
  return {mean, mean + size};
}

template <typename Real>
void TimeSlice<Real>::update_averages(const NormEntries& norm, SweepStatistics& statistics) {
  if (statistics.counts.empty()) return;
  const int num_features = static_cast<int>(norm.mean.size());
  backend_.update_running_averages(num_features, statistics.counts,
                                   statistics_of(statistics, num_features, 0),
                                   values_ + norm.mean.offset, values_ + norm.variance.offset);
}

template <typename Real>
void TimeSlice<Real>::update_running_averages() {
  update_averages(map_.opening_norm, opening_statistics_);
  update_averages(map_.closing_norm, closing_statistics_);
}

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
void TimeSlice<Real>::open(InFlight& kept, int micro_batch, int batch, Mode mode, Real* state) {
  const PhaseScope timed(timer_, Phase::opening);
  const OpeningShape shape = architecture_.opening(batch);
  const StateView<Real> front = view(state, pieces_.front(), batch);
  const int num_features = shape.features.num_features(shape.channels);
  const NormStatistics statistics = statistics_of(opening_statistics_, num_features, micro_batch);
  kept.images.store(std::size_t{1} * batch * shape.in_channels * shape.height * shape.width);
  // state <- K images
  backend_.opening_convolve(shape, kept.images.data(), opening_weights(), front,
                            mode == Mode::evaluate ? NormStatistics{} : statistics);
  if (mode == Mode::evaluate)
    backend_.read_running_averages(num_features, values_ + map_.opening_norm.mean.offset,
                                   values_ + map_.opening_norm.variance.offset, statistics);
  if (mode == Mode::train) {
    opening_statistics_.counts.resize(num_micro_batches_);
    opening_statistics_.counts[micro_batch] = double{1} * batch * shape.height * shape.width;
  }
  // state <- round(relu(norm(state)))
  backend_.opening_normalise(shape, opening_weights(), statistics, front);
  if (mode == Mode::inspect)
    find_non_finite(micro_batch, state, piece_size(pieces_.front(), batch), 0);
}

template <typename Real>
void TimeSlice<Real>::forward(int micro_batch, int batch, Mode mode, Real* message) {
  InFlight& kept = in_flight(micro_batch);
  num_samples_[micro_batch] = batch;
  Real* state = place_of_state(kept, 0, batch, message);
  if (is_first()) {
    open(kept, micro_batch, batch, mode, state);
  } else {
    copy(state, message, input_size(batch));
  }
  if (measures_reversal_ && mode == Mode::train) {
    kept.front_state.ensure(input_size(batch), Memory::stash, backend_.space());
    copy(kept.front_state.data(), state, input_size(batch));
  }
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    Recording* recording = nullptr;
    if (mode == Mode::train && activations_ == Activations::store) {
      if (!kept.recordings[i] || kept.recorded_batch < batch)
        kept.recordings[i] = piece.segment->make_recording(batch);
      recording = kept.recordings[i].get();
    }
    if (mode == Mode::inspect) {
      inspect(piece, micro_batch, batch, state);
    } else {
      const PhaseScope timed(timer_, Phase::stage_forward, piece.stage);
      piece.segment->advance(piece.all(), view(state, piece, batch),
                             mode == Mode::train ? &notes_.data()[micro_batch].counts : nullptr,
                             recording);
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
void TimeSlice<Real>::close(InFlight& kept, int micro_batch, int batch, Mode mode, Real* state) {
  const PhaseScope timed(timer_, Phase::closing);
  const ClosingShape shape = architecture_.closing(batch);
  const StateView<Real> end = view(state, pieces_.back(), batch);
  const int num_features = shape.features.num_features(shape.channels);
  const NormStatistics statistics = statistics_of(closing_statistics_, num_features, micro_batch);
  if (mode == Mode::evaluate) {
    backend_.read_running_averages(num_features, values_ + map_.closing_norm.mean.offset,
                                   values_ + map_.closing_norm.variance.offset, statistics);
  } else {
    backend_.closing_statistics(shape, end, statistics);
  }
  if (mode == Mode::train) {
    closing_statistics_.counts.resize(num_micro_batches_);
    closing_statistics_.counts[micro_batch] = double{1} * batch * shape.height * shape.width;
  }
  kept.num_logits = std::size_t{1} * batch * shape.num_classes;
  kept.logits.ensure(kept.num_logits, Memory::workspace, backend_);
  kept.probabilities.ensure(kept.num_logits, Memory::workspace, backend_.space());
  kept.grad_logits.ensure(kept.num_logits, Memory::workspace, backend_.space());
  // logits = W mean(relu(norm(state))) + b;  loss = cross_entropy(softmax(logits))
  backend_.closing_forward(shape, end, closing_weights(), statistics, kept.logits.data());
  if (mode == Mode::inspect)
    find_non_finite(micro_batch, kept.logits.data(), kept.num_logits,
                    architecture_.closing_layer());
  backend_.softmax_cross_entropy({batch, shape.num_classes}, kept.logits.data(), kept.labels.data(),
                                 kept.probabilities.data(), &notes_.data()[micro_batch].loss);
}

template <typename Real>
std::span<const Real> TimeSlice<Real>::logits(int micro_batch) {
  InFlight& kept = *in_flight_.at(micro_batch);
  kept.logits.fetch(kept.num_logits);
  return kept.logits.host().first(kept.num_logits);
}

template <typename Real>
OverflowNote TimeSlice<Real>::overflow_note(int micro_batch, int first_layer) {
  return {&notes_.data()[micro_batch].overflow, 1 + first_layer};
}

template <typename Real>
void TimeSlice<Real>::begin_backward(InFlight& kept, int micro_batch, int batch, int mini_batch,
                                     Real* adjoint) {
  const PhaseScope timed(timer_, Phase::closing);
  const ClosingShape shape = architecture_.closing(batch);
  // grad_logits = (softmax - one at the label) / mini_batch;  adjoint = closing^T grad_logits
  backend_.softmax_cross_entropy_gradient({batch, shape.num_classes}, kept.probabilities.data(),
                                          kept.labels.data(), mini_batch, kept.grad_logits.data());
  backend_.closing_backward(
      shape, view(kept.states.back().data(), pieces_.back(), batch), closing_weights(),
      statistics_of(closing_statistics_, shape.features.num_features(shape.channels), micro_batch),
      kept.grad_logits.data(), view(adjoint, pieces_.back(), batch),
      {gradient_ + map_.closing_norm.scale.offset, gradient_ + map_.closing_norm.shift.offset,
       gradient_ + map_.closing_weight.offset, gradient_ + map_.closing_bias.offset},
      overflow_note(micro_batch, architecture_.closing_layer()));
}

template <typename Real>
void TimeSlice<Real>::finish_backward(InFlight& kept, int micro_batch, int batch, Real* state,
                                      Real* adjoint) {
  const PhaseScope timed(timer_, Phase::opening);
  const OpeningShape shape = architecture_.opening(batch);
  const Piece& front = pieces_.front();
  backend_.opening_backward(
      shape, kept.images.data(), opening_weights(),
      statistics_of(opening_statistics_, shape.features.num_features(shape.channels), micro_batch),
      view(state, front, batch), view(adjoint, front, batch),
      {gradient_ + map_.opening_kernel.offset, gradient_ + map_.opening_norm.scale.offset,
       gradient_ + map_.opening_norm.shift.offset},
      overflow_note(micro_batch, 0));
}

template <typename Real>
void TimeSlice<Real>::backward(int micro_batch, int batch, int mini_batch, Real* message,
                               Real* message_adjoint) {
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
  } else {
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
    piece.segment->retreat(piece.all(), view(state, piece, batch), view(adjoint, piece, batch),
                           recording, overflow_note(micro_batch, layer_of(piece, 0)));
  }
  if (measures_reversal_)
    backend_.compare(input_size(batch), state, kept.front_state.data(),
                     &notes_.data()[micro_batch].reversal);
  if (is_first()) {
    finish_backward(kept, micro_batch, batch, state, adjoint);
  } else {
    copy(message, state, input_size(batch));
  }
  release(micro_batch);
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
  for (const MicroBatchNotes& notes : found_) sum += notes.counts;
  return sum;
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

template class TimeSlice<float>;
template class TimeSlice<double>;

}  // namespace revode
