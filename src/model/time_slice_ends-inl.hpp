// A part of time_slice.cpp. The two ends of the network as parts of a slice: opening, closing and
// loss, and the running averages of their norms.
#pragma once

#include "model/stash.hpp"

namespace revode {

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
  norm.num_features = num_features;
  norm.values.ensure(2 * size, Memory::workspace, backend_);
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
std::vector<typename TimeSlice<Real>::SweepStatistics*> TimeSlice<Real>::sweep_statistics() {
  std::vector<SweepStatistics*> all;
  for (SweepStatistics* statistics : {&opening_statistics_, &closing_statistics_})
    if (!statistics->counts.empty()) all.push_back(statistics);
  return all;
}

template <typename Real>
void TimeSlice<Real>::update_running_averages() {
  update_averages(map_.opening_norm, opening_statistics_);
  update_averages(map_.closing_norm, closing_statistics_);
}

template <typename Real>
void TimeSlice<Real>::open(InFlight& kept, int micro_batch, int batch, Mode mode, Real* state) {
  const PhaseScope timed(timer_, Phase::opening);
  const OpeningShape shape = architecture_.opening(batch);
  const StateView<Real> front = view(state, pieces_.front(), batch);
  const int num_features = shape.features.num_features(shape.channels);
  const NormStatistics statistics = statistics_of(opening_statistics_, num_features, micro_batch);
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
  backend_.softmax_cross_entropy({batch, shape.num_classes}, kept.logits.data(),
                                 kept.labels->data(), kept.probabilities.data(),
                                 &notes_.data()[micro_batch].loss);
}

template <typename Real>
std::span<const Real> TimeSlice<Real>::logits(int micro_batch) {
  InFlight& kept = *in_flight_.at(micro_batch);
  kept.logits.fetch(kept.num_logits);
  return kept.logits.host().first(kept.num_logits);
}

template <typename Real>
void TimeSlice<Real>::begin_backward(InFlight& kept, int micro_batch, int batch, int mini_batch,
                                     Real* adjoint) {
  const PhaseScope timed(timer_, Phase::closing);
  const ClosingShape shape = architecture_.closing(batch);
  // grad_logits = (softmax - one at the label) / mini_batch;  adjoint = closing^T grad_logits
  backend_.softmax_cross_entropy_gradient({batch, shape.num_classes}, kept.probabilities.data(),
                                          kept.labels->data(), mini_batch, kept.grad_logits.data());
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

}  // namespace revode
