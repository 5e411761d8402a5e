#include "revode/pipeline/network_work.hpp"

#include <chrono>
#include <numeric>
#include <utility>

#include "revode/core/activity.hpp"

namespace revode {

int MiniBatchSource::size() const {
  return std::accumulate(micro_batches.begin(), micro_batches.end(), 0);
}

int MiniBatchSource::first_sample(int micro_batch) const {
  return std::accumulate(micro_batches.begin(), micro_batches.begin() + micro_batch, 0);
}

MicroBatchResult SweepResult::total() const {
  MicroBatchResult sum;
  for (const MicroBatchResult& result : micro_batches) {
    sum.loss_sum += result.loss_sum;
    sum.num_correct += result.num_correct;
    sum.num_samples += result.num_samples;
  }
  return sum;
}

NetworkWork::NetworkWork(const Placement& placement, int rank,
                         const std::vector<TimeSlice<float>*>& slices, Backend<float>& backend,
                         const MiniBatchSource& source, std::vector<int> micro_batches, Mode mode,
                         SweepObservers observers)
    : slices_(placement.num_slices()),
      backend_(backend),
      source_(source),
      micro_batches_(std::move(micro_batches)),
      num_micro_batches_(static_cast<int>(source.micro_batches.size())),
      mini_batch_(source.size()),
      mode_(mode),
      observers_(std::move(observers)),
      backs_left_(placement.num_slices(), static_cast<int>(micro_batches_.size())) {
  for (std::size_t i = 0; i < slices.size(); ++i) {
    slices_[placement.slices_of(rank)[i]] = slices[i];
    slices[i]->begin_sweep(num_micro_batches_);
  }
}

std::size_t NetworkWork::input_size(int slice, int micro_batch) const {
  return own(slice).input_size(source_.micro_batches[micro_batches_[micro_batch]]);
}

std::size_t NetworkWork::output_size(int slice, int micro_batch) const {
  return own(slice).output_size(source_.micro_batches[micro_batches_[micro_batch]]);
}

void NetworkWork::compute(const Work& work, float* state, float* adjoint) {
  TimeSlice<float>& slice = own(work.slice);
  if (work.sweep == Sweep::forward) {
    forward(slice, work, state);
  } else {
    backward(slice, work, state, adjoint);
  }
}

void NetworkWork::backward(TimeSlice<float>& slice, const Work& work, float* state,
                           float* adjoint) {
  TimeSlice<float>::OnGradient on_gradient;
  const bool is_last = --backs_left_[work.slice] == 0;
  if (GradientListener* listener = observers_.gradients; is_last && listener != nullptr)
    on_gradient = [listener, index = work.slice](std::size_t first, std::size_t last) {
      listener->complete(index, first, last);
    };
  const int m = number_of(work.micro_batch);
  count_work(work, [&] {
    slice.backward(m, source_.micro_batches[m], mini_batch_, state, adjoint, on_gradient);
  });
}

template <typename Action>
void NetworkWork::count_work(const Work& work, Action&& action) {
  using Clock = std::chrono::steady_clock;
  const bool ahead = work.sweep == Sweep::forward;
  const ActivityScope at({.what = ahead ? "computes forward" : "computes backward",
                          .micro_batch = number_of(work.micro_batch),
                          .slice = work.slice});
  const TraceScope traced(observers_.trace, ahead ? TraceAction::forward : TraceAction::backward,
                          number_of(work.micro_batch), work.slice);
  const Clock::time_point start = Clock::now();
  action();
  work_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
}

void NetworkWork::forward(TimeSlice<float>& slice, const Work& work, float* state) {
  const int micro_batch = number_of(work.micro_batch);
  const int batch = source_.micro_batches[micro_batch];
  if (slice.is_first()) {
    const ActivityScope at({.what = "prepares images", .micro_batch = micro_batch});
    const PhaseScope timed(observers_.timer, Phase::data);
    const TraceScope traced(observers_.trace, TraceAction::data, micro_batch);
    source_.images(micro_batch, backend_, slice.images(micro_batch, batch));
  }
  if (slice.is_last()) slice.set_labels(micro_batch, source_.labels(micro_batch));
  count_work(work, [&] { slice.forward(micro_batch, batch, mode_, state); });
  if (!slice.is_last()) return;
  if (observers_.on_logits) observers_.on_logits(micro_batch, slice.logits(micro_batch));
  if (mode_ != Mode::train) slice.release(micro_batch);
}

void NetworkWork::finish() {
  for (TimeSlice<float>* slice : slices_)
    if (slice != nullptr) slice->finish_sweep();
}

SweepResult NetworkWork::result() {
  SweepResult result;
  for (TimeSlice<float>* slice : slices_) {
    if (slice == nullptr) continue;
    slice->take_notes();
    if (!slice->is_last()) continue;
    for (int m = 0; m < num_micro_batches_; ++m) result.micro_batches.push_back(slice->result(m));
  }
  return result;
}

}  // namespace revode
