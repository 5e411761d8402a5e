#include "revode/pipeline/network_work.hpp"

#include <chrono>
#include <numeric>
#include <utility>

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
                         const std::vector<TimeSlice<float>*>& slices,
                         const MiniBatchSource& source, std::vector<int> micro_batches, Mode mode,
                         OnLogits on_logits, PhaseTimer* timer, TraceRecorder* trace)
    : slices_(placement.num_slices()),
      source_(source),
      micro_batches_(std::move(micro_batches)),
      mini_batch_(source.size()),
      mode_(mode),
      on_logits_(std::move(on_logits)),
      timer_(timer),
      trace_(trace) {
  for (std::size_t i = 0; i < slices.size(); ++i) {
    slices_[placement.slices_of(rank)[i]] = slices[i];
    slices[i]->begin_sweep(static_cast<int>(source.micro_batches.size()));
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
  const int m = micro_batches_[work.micro_batch];
  if (work.sweep == Sweep::forward) {
    forward(slice, work, state);
  } else {
    count_work(work,
               [&] { slice.backward(m, source_.micro_batches[m], mini_batch_, state, adjoint); });
  }
}

template <typename Action>
void NetworkWork::count_work(const Work& work, Action&& action) {
  using Clock = std::chrono::steady_clock;
  const bool ahead = work.sweep == Sweep::forward;
  const TraceScope traced(trace_, ahead ? TraceAction::forward : TraceAction::backward,
                          number_of(work.micro_batch), work.slice);
  const Clock::time_point start = Clock::now();
  action();
  work_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
}

void NetworkWork::forward(TimeSlice<float>& slice, const Work& work, float* state) {
  const int micro_batch = number_of(work.micro_batch);
  const int batch = source_.micro_batches[micro_batch];
  if (slice.is_first()) {
    const PhaseScope timed(timer_, Phase::data);
    const TraceScope traced(trace_, TraceAction::data, micro_batch);
    source_.images(micro_batch, slice.images(micro_batch, batch));
  }
  if (slice.is_last()) slice.set_labels(micro_batch, source_.labels(micro_batch));
  count_work(work, [&] { slice.forward(micro_batch, batch, mode_, state); });
  if (!slice.is_last()) return;
  if (on_logits_) on_logits_(micro_batch, slice.logits(micro_batch));
  if (mode_ != Mode::train) slice.release(micro_batch);
}

SweepResult NetworkWork::finish() {
  SweepResult result;
  for (TimeSlice<float>* slice : slices_) {
    if (slice == nullptr) continue;
    slice->finish_sweep();
    if (!slice->is_last()) continue;
    for (std::size_t m = 0; m < source_.micro_batches.size(); ++m)
      result.micro_batches.push_back(slice->result(static_cast<int>(m)));
  }
  return result;
}

}  // namespace revode
