#include "revode/model/time_slice.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
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
  bool transition_behind = false;

  CouplingRange all() const { return {0, segment->shape().num_couplings}; }
};

template <typename Real>
struct TimeSlice<Real>::InFlight {
  Buffer<Real> images;                                 // first slice
  NormStatistics opening, closing;                     // of this micro-batch
  std::vector<Buffer<Real>> states;                    // by piece: its home, where it has one
  std::vector<std::unique_ptr<Recording>> recordings;  // by piece, with Activations::store
  int recorded_batch = 0;
  std::vector<Real> front_state;  // where the reversal is measured
  std::vector<std::uint8_t> labels;
  std::vector<Real> logits;
  std::vector<double> probabilities;  // [batch, classes]
  MicroBatchResult result;
};

namespace {

/// What a transition gives, both slots one behind the other.
template <typename Real>
StateView<Real> pooled_view(const TransitionShape& shape, Real* state) {
  const std::size_t slot_size =
      std::size_t{1} * shape.batch * shape.out_channels * (shape.height / 2) * (shape.width / 2);
  return {{state, state + slot_size}, shape.batch};
}

/// The part of `batch` images in a statistic; running averages use the unbiased variance.
constexpr double norm_momentum = 0.1;

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
      // The slice that ends a stage does the transition: what it sends is then half as large.
      piece.transition_behind = k + 1 < num_stages && range_.last >= end_of_stage;
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
  if (!last.transition_behind) return piece_size(last, batch);
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
    if (has_home(piece)) elements += piece_size(piece, batch);
  return elements * sizeof(Real);
}

template <typename Real>
void TimeSlice<Real>::load_weights() {
  for (Piece& piece : pieces_)
    piece.segment->load_weights(values_ + piece.kernel->offset, values_ + piece.bias->offset);
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
bool TimeSlice<Real>::has_home(const Piece& piece) const {
  return piece.transition_behind || (is_last() && &piece == &pieces_.back());
}

template <typename Real>
Real* TimeSlice<Real>::home(InFlight& kept, std::size_t i, int batch, Real* message) const {
  if (!has_home(pieces_[i])) return message;
  kept.states[i].ensure(piece_size(pieces_[i], batch), Memory::stash);
  return kept.states[i].data();
}

// Adjoints need not be kept: a transition takes them from one array to the other, and to the
// caller's in the end.
template <typename Real>
Real* TimeSlice<Real>::adjoint_behind(std::size_t transitions, int batch, Real* adjoint) {
  if (transitions % 2 == 0) return adjoint;
  scratch_.ensure(adjoint_capacity(batch), Memory::state);
  return scratch_.data();
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
                     Memory::stash);
  return kept.images.data();
}

template <typename Real>
void TimeSlice<Real>::set_labels(int micro_batch, std::span<const std::uint8_t> labels) {
  in_flight(micro_batch).labels.assign(labels.begin(), labels.end());
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
NormStatistics TimeSlice<Real>::running(const NormEntries& norm) const {
  const Real* mean = values_ + norm.mean.offset;
  const Real* variance = values_ + norm.variance.offset;
  return {{mean, mean + norm.mean.size()}, {variance, variance + norm.variance.size()}};
}

// running <- 0.9 running + 0.1 batch, the variance made unbiased: count / (count - 1)
template <typename Real>
void TimeSlice<Real>::follow(const NormEntries& norm,
                             const std::map<int, BatchStatistics>& batches) {
  if (batches.empty()) return;
  NormStatistics average = running(norm);
  for (const auto& [micro_batch, batch] : batches) {
    const double unbiased = batch.count > 1 ? batch.count / (batch.count - 1) : 1;
    for (std::size_t f = 0; f < norm.mean.size(); ++f) {
      average.mean[f] =
          (1 - norm_momentum) * average.mean[f] + norm_momentum * batch.values.mean[f];
      average.variance[f] = (1 - norm_momentum) * average.variance[f] +
                            norm_momentum * unbiased * batch.values.variance[f];
    }
  }
  for (std::size_t f = 0; f < norm.mean.size(); ++f) {
    values_[norm.mean.offset + f] = static_cast<Real>(average.mean[f]);
    values_[norm.variance.offset + f] = static_cast<Real>(average.variance[f]);
  }
}

template <typename Real>
void TimeSlice<Real>::update_running_averages() {
  follow(map_.opening_norm, opening_statistics_);
  follow(map_.closing_norm, closing_statistics_);
}

template <typename Real>
void TimeSlice<Real>::begin_sweep() {
  opening_statistics_.clear();
  closing_statistics_.clear();
  overflow_.reset();
}

template <typename Real>
void TimeSlice<Real>::open(InFlight& kept, int micro_batch, int batch, Mode mode, Real* state) {
  const PhaseScope timed(timer_, Phase::opening);
  const OpeningShape shape = architecture_.opening(batch);
  const StateView<Real> front = view(state, pieces_.front(), batch);
  backend_.opening_convolve(shape, kept.images.data(), opening_weights(), front,
                            mode == Mode::evaluate ? nullptr : &kept.opening);
  if (mode == Mode::evaluate) kept.opening = running(map_.opening_norm);
  if (mode == Mode::train)
    opening_statistics_[micro_batch] = {kept.opening,
                                        double{1} * batch * shape.height * shape.width};
  backend_.opening_normalise(shape, opening_weights(), kept.opening, front);
  if (mode == Mode::inspect) note_non_finite(state, piece_size(pieces_.front(), batch), 0);
}

template <typename Real>
void TimeSlice<Real>::forward(int micro_batch, int batch, Mode mode, Real* message) {
  InFlight& kept = in_flight(micro_batch);
  if (mode == Mode::inspect) non_finite_layer_.reset();
  Real* state = home(kept, 0, batch, message);
  if (is_first()) {
    open(kept, micro_batch, batch, mode, state);
  } else if (state != message) {
    std::copy_n(message, input_size(batch), state);
  }
  if (measures_reversal_ && mode == Mode::train)
    kept.front_state.assign(state, state + input_size(batch));
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    Recording* recording = nullptr;
    if (mode == Mode::train && activations_ == Activations::store) {
      if (!kept.recordings[i] || kept.recorded_batch < batch)
        kept.recordings[i] = piece.segment->make_recording(batch);
      recording = kept.recordings[i].get();
    }
    if (mode == Mode::inspect) {
      inspect(piece, batch, state);
    } else {
      const PhaseScope timed(timer_, Phase::stage_forward, piece.stage);
      RangeCounts counts;
      piece.segment->advance(piece.all(), view(state, piece, batch), counts, recording);
      if (mode == Mode::train) counts_ += counts;
    }
    if (!piece.transition_behind) continue;
    const PhaseScope timed(timer_, Phase::transition);
    Real* next = i + 1 < pieces_.size() ? home(kept, i + 1, batch, message) : message;
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
  if (mode == Mode::evaluate) {
    kept.closing = running(map_.closing_norm);
  } else {
    kept.closing = backend_.closing_statistics(shape, end);
    if (mode == Mode::train)
      closing_statistics_[micro_batch] = {kept.closing,
                                          double{1} * batch * shape.height * shape.width};
  }
  kept.logits.resize(std::size_t{1} * batch * shape.num_classes);
  kept.probabilities.resize(kept.logits.size());
  backend_.closing_forward(shape, end, closing_weights(), kept.closing, kept.logits.data());
  if (mode == Mode::inspect)
    note_non_finite(kept.logits.data(), kept.logits.size(), architecture_.closing_layer());
  kept.result =
      softmax_cross_entropy(std::span<const Real>(kept.logits), kept.labels, kept.probabilities);
}

template <typename Real>
MicroBatchResult TimeSlice<Real>::result(int micro_batch) const {
  return in_flight_.at(micro_batch)->result;
}

template <typename Real>
std::span<const Real> TimeSlice<Real>::logits(int micro_batch) const {
  return in_flight_.at(micro_batch)->logits;
}

template <typename Real>
void TimeSlice<Real>::begin_backward(InFlight& kept, int batch, int mini_batch, Real* adjoint,
                                     ExactSum* gradient, int* overflow) {
  const PhaseScope timed(timer_, Phase::closing);
  std::vector<Real> grad_logits(kept.probabilities.size());
  softmax_cross_entropy_gradient(std::span<const double>(kept.probabilities), kept.labels,
                                 mini_batch, std::span<Real>(grad_logits));
  backend_.closing_backward(
      architecture_.closing(batch), view(kept.states.back().data(), pieces_.back(), batch),
      closing_weights(), kept.closing, grad_logits.data(), view(adjoint, pieces_.back(), batch),
      {gradient + map_.closing_norm.scale.offset, gradient + map_.closing_norm.shift.offset,
       gradient + map_.closing_weight.offset, gradient + map_.closing_bias.offset},
      overflow);
}

template <typename Real>
void TimeSlice<Real>::backward(int micro_batch, int batch, int mini_batch, Real* message,
                               Real* message_adjoint, ExactSum* gradient) {
  InFlight& kept = in_flight(micro_batch);
  std::size_t transitions =
      is_last()
          ? pieces_.size() - 1
          : static_cast<std::size_t>(std::ranges::count_if(pieces_, &Piece::transition_behind));
  Real* adjoint = adjoint_behind(transitions, batch, message_adjoint);
  if (is_last()) {
    int overflow = 0;
    begin_backward(kept, batch, mini_batch, adjoint, gradient, &overflow);
    if (overflow > 0) note_overflow(micro_batch, architecture_.closing_layer());
  } else if (adjoint != message_adjoint) {
    std::copy_n(message_adjoint, output_size(batch), adjoint);
  }
  Real* state = nullptr;
  for (std::size_t i = pieces_.size(); i-- > 0;) {
    const Piece& piece = pieces_[i];
    if (piece.transition_behind) {
      const PhaseScope timed(timer_, Phase::transition);
      const TransitionShape shape = architecture_.transition(piece.stage, batch);
      Real* before = adjoint_behind(--transitions, batch, message_adjoint);
      backend_.transition_backward(shape, pooled_view(shape, adjoint), view(before, piece, batch));
      adjoint = before;
    }
    state = home(kept, i, batch, message);
    const PhaseScope timed(timer_, Phase::stage_back, piece.stage);
    const Recording* recording =
        activations_ == Activations::store ? kept.recordings[i].get() : nullptr;
    int overflow = 0;  // 1 + the last coupling of the piece that overflowed
    piece.segment->retreat(piece.all(), view(state, piece, batch), view(adjoint, piece, batch),
                           {gradient + piece.kernel->offset, gradient + piece.bias->offset},
                           recording, &overflow);
    if (overflow > 0) note_overflow(micro_batch, layer_of(piece, overflow - 1));
  }
  if (measures_reversal_) compare(kept.front_state, state);
  if (is_first()) {
    const PhaseScope timed(timer_, Phase::opening);
    const Piece& front = pieces_.front();
    int overflow = 0;
    backend_.opening_backward(
        architecture_.opening(batch), kept.images.data(), opening_weights(), kept.opening,
        view(state, front, batch), view(adjoint, front, batch),
        {gradient + map_.opening_kernel.offset, gradient + map_.opening_norm.scale.offset,
         gradient + map_.opening_norm.shift.offset},
        &overflow);
    if (overflow > 0) note_overflow(micro_batch, 0);
  } else if (state != message) {
    std::copy_n(state, input_size(batch), message);
  }
  release(micro_batch);
}

template <typename Real>
RangeCounts TimeSlice<Real>::take_counts() {
  return std::exchange(counts_, RangeCounts{});
}

// The backward sweep comes from the closing: what a micro-batch notes first is nearest to it.
template <typename Real>
void TimeSlice<Real>::note_overflow(int micro_batch, int layer) {
  if (!overflow_ || micro_batch < overflow_->micro_batch)
    overflow_ = GradientOverflow{micro_batch, layer};
}

template <typename Real>
void TimeSlice<Real>::compare(const std::vector<Real>& kept, const Real* rebuilt) {
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const double error = double{rebuilt[i]} - double{kept[i]};
    reversal_.num_differing += std::memcmp(&rebuilt[i], &kept[i], sizeof(Real)) != 0;
    reversal_.squared_error += error * error;
    reversal_.squared_norm += double{kept[i]} * double{kept[i]};
  }
  reversal_.num_values += static_cast<std::int64_t>(kept.size());
}

template <typename Real>
Reversal TimeSlice<Real>::take_reversal() {
  return std::exchange(reversal_, Reversal{});
}

template <typename Real>
void TimeSlice<Real>::note_non_finite(const Real* values, std::size_t size, int layer) {
  if (non_finite_layer_) return;
  if (std::all_of(values, values + size, [](Real value) { return std::isfinite(value); })) return;
  non_finite_layer_ = layer;
}

/// The layer of coupling j of a piece (Architecture::layer_name).
template <typename Real>
int TimeSlice<Real>::layer_of(const Piece& piece, int j) const {
  return 1 + architecture_.stages()[piece.stage].first_coupling + piece.first_coupling + j;
}

// One coupling at a time, looking at the state after each.
template <typename Real>
void TimeSlice<Real>::inspect(const Piece& piece, int batch, Real* state) {
  RangeCounts ignored;
  for (int j = 0; j < piece.segment->shape().num_couplings; ++j) {
    piece.segment->advance({j, j + 1}, view(state, piece, batch), ignored, nullptr);
    note_non_finite(state, piece_size(piece, batch), layer_of(piece, j));
  }
}

template class TimeSlice<float>;
template class TimeSlice<double>;

}  // namespace revode
