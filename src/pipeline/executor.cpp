#include "revode/pipeline/executor.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>
#include <utility>

namespace revode {

int MiniBatchSource::size() const {
  return std::accumulate(micro_batches.begin(), micro_batches.end(), 0);
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

Executor::Executor(const Communicator& communicator, TimeSlice<float>& slice,
                   Backend<float>& backend, int largest_micro_batch)
    : communicator_(communicator), slice_(slice), backend_(backend) {
  const std::size_t message = slice.message_capacity(largest_micro_batch);
  const std::size_t adjoint = slice.adjoint_capacity(largest_micro_batch);
  const int num_slots = communicator.size() > 1 ? num_message_buffers : 1;
  for (Direction* direction : {&forward_, &backward_}) {
    direction->slots.resize(num_slots);
    for (Slot& slot : direction->slots) {
      slot.state = Buffer<float>(message, Memory::state);
      if (direction == &backward_) slot.adjoint = Buffer<float>(adjoint, Memory::state);
    }
  }
  // The MPI library moves large messages only inside its calls: look in while the kernels work.
  backend_.set_progress([this] {
    if (source_ != nullptr && communicator_.size() > 1) post_receives(*source_);
  });
}

Executor::~Executor() { backend_.set_progress({}); }

SweepResult Executor::train(const ScheduleRule& schedule, const MiniBatchSource& source,
                            ExactSum* gradient, const OnLogits& on_logits) {
  play(schedule.make(communicator_.rank(), communicator_.size(),
                     static_cast<int>(source.micro_batches.size())),
       source, Mode::train, gradient, on_logits);
  return result_;
}

SweepResult Executor::evaluate(const MiniBatchSource& source, const OnLogits& on_logits) {
  play(forward_program(communicator_.rank(), communicator_.size(),
                       static_cast<int>(source.micro_batches.size())),
       source, Mode::evaluate, nullptr, on_logits);
  return result_;
}

std::optional<Executor::Finding> Executor::inspect(const MiniBatchSource& source) {
  finding_.reset();
  play(forward_program(communicator_.rank(), communicator_.size(),
                       static_cast<int>(source.micro_batches.size())),
       source, Mode::inspect, nullptr, {});
  return finding_;
}

void Executor::play(const Program& program, const MiniBatchSource& source, Mode mode,
                    ExactSum* gradient, const OnLogits& on_logits) {
  result_ = {};
  if (slice_.is_last()) result_.micro_batches.resize(source.micro_batches.size());
  slice_.begin_sweep();
  begin(program);
  source_ = &source;
  for (const Instruction& instruction : program) {
    post_receives(source);
    execute(instruction, source, mode, gradient, on_logits);
  }
  source_ = nullptr;
  finish_sends(source);
}

void Executor::begin(const Program& program) {
  for (Direction* direction : {&forward_, &backward_}) {
    direction->expected.clear();
    direction->next_expected = 0;
    direction->current = nullptr;
  }
  for (const Instruction& instruction : program) {
    if (instruction.operation == Operation::receive_state)
      forward_.expected.push_back(instruction.micro_batch);
    if (instruction.operation == Operation::receive_adjoint)
      backward_.expected.push_back(instruction.micro_batch);
  }
}

void Executor::execute(const Instruction& instruction, const MiniBatchSource& source, Mode mode,
                       ExactSum* gradient, const OnLogits& on_logits) {
  const int m = instruction.micro_batch, batch = source.micro_batches[m];
  const int before = communicator_.rank() - 1, behind = communicator_.rank() + 1;
  switch (instruction.operation) {
    case Operation::receive_state:
      take_arrived(forward_, source);
      break;
    case Operation::forward:
      if (slice_.is_first()) forward_.current = &wait_for_free(forward_, source);
      forward(m, source, mode, on_logits);
      break;
    case Operation::send_state: {
      Slot& slot = *std::exchange(forward_.current, nullptr);
      const std::size_t size = slice_.output_size(batch);
      slot.requests.push_back(
          communicator_.send(slot.state.span().first(size), behind, MessageKind::state, m));
      break;
    }
    case Operation::receive_adjoint:
      take_arrived(backward_, source);
      break;
    case Operation::backward:
      if (slice_.is_last()) backward_.current = &wait_for_free(backward_, source);
      backward(m, source, gradient);
      break;
    case Operation::send_adjoint: {
      Slot& slot = *std::exchange(backward_.current, nullptr);
      const std::size_t size = slice_.input_size(batch);
      slot.requests.push_back(
          communicator_.send(slot.state.span().first(size), before, MessageKind::rebuilt_state, m));
      slot.requests.push_back(
          communicator_.send(slot.adjoint.span().first(size), before, MessageKind::adjoint, m));
      break;
    }
  }
}

void Executor::forward(int micro_batch, const MiniBatchSource& source, Mode mode,
                       const OnLogits& on_logits) {
  const int batch = source.micro_batches[micro_batch];
  if (slice_.is_first()) {
    const PhaseScope timed(timer_, Phase::data);
    source.images(micro_batch, slice_.images(micro_batch, batch));
  }
  if (slice_.is_last()) slice_.set_labels(micro_batch, source.labels(micro_batch));
  slice_.forward(micro_batch, batch, mode, forward_.current->state.data());
  if (mode == Mode::inspect && slice_.non_finite_layer() && !finding_)
    finding_ = Finding{micro_batch, *slice_.non_finite_layer()};
  if (!slice_.is_last()) return;
  result_.micro_batches[micro_batch] = slice_.result(micro_batch);
  if (on_logits) on_logits(micro_batch, slice_.logits(micro_batch));
  if (mode != Mode::train) slice_.release(micro_batch);
  forward_.current = nullptr;
}

void Executor::backward(int micro_batch, const MiniBatchSource& source, ExactSum* gradient) {
  Slot& slot = *backward_.current;
  slice_.backward(micro_batch, source.micro_batches[micro_batch], source.size(), slot.state.data(),
                  slot.adjoint.data(), gradient);
  if (slice_.is_first()) backward_.current = nullptr;
}

bool Executor::Slot::settled() {
  if (!std::ranges::all_of(requests, [](Request& request) { return request.done(); })) return false;
  requests.clear();
  return true;
}

// The oldest posted receive becomes the current buffer; where none could be posted yet, room is
// waited for.
void Executor::take_arrived(Direction& direction, const MiniBatchSource& source) {
  wait_until(source,
             [&] { return !direction.arriving.empty() && direction.arriving.front()->settled(); });
  direction.current = direction.arriving.front();
  direction.arriving.pop_front();
  post_receives(source);
}

// One receive of each direction is always posted ahead, as soon as there is a buffer for it.
void Executor::post_receives(const MiniBatchSource& source) {
  for (Direction* direction : {&forward_, &backward_}) {
    if (direction->arriving.empty()) post_next_receive(*direction, source);
    for (Slot& slot : direction->slots)
      for (Request& request : slot.requests) request.done();
  }
}

void Executor::post_next_receive(Direction& direction, const MiniBatchSource& source) {
  if (direction.next_expected == direction.expected.size()) return;
  Slot* slot = find_free(direction);
  if (slot == nullptr) return;
  const int m = direction.expected[direction.next_expected++], batch = source.micro_batches[m];
  const int before = communicator_.rank() - 1, behind = communicator_.rank() + 1;
  if (&direction == &forward_) {
    slot->requests.push_back(communicator_.receive(
        slot->state.span().first(slice_.input_size(batch)), before, MessageKind::state, m));
  } else {
    const std::size_t size = slice_.output_size(batch);
    slot->requests.push_back(communicator_.receive(slot->state.span().first(size), behind,
                                                   MessageKind::rebuilt_state, m));
    slot->requests.push_back(
        communicator_.receive(slot->adjoint.span().first(size), behind, MessageKind::adjoint, m));
  }
  direction.arriving.push_back(slot);
}

// Free: neither computed in, nor received into, nor still being sent.
Executor::Slot* Executor::find_free(Direction& direction) {
  for (Slot& slot : direction.slots) {
    if (&slot == direction.current || std::ranges::count(direction.arriving, &slot) > 0) continue;
    if (slot.settled()) return &slot;
  }
  return nullptr;
}

Executor::Slot& Executor::wait_for_free(Direction& direction, const MiniBatchSource& source) {
  Slot* slot = nullptr;
  wait_until(source, [&] { return (slot = find_free(direction)) != nullptr; });
  return *slot;
}

// A rank that waits goes on posting receives, so that no two ranks can wait for each other's. It
// yields, then naps: on hosts with more ranks than cores a spinning rank would take the time of one
// that works.
void Executor::wait_until(const MiniBatchSource& source, const std::function<bool()>& condition) {
  if (condition()) return;
  const PhaseScope timed(timer_, Phase::waiting);
  constexpr int num_yields = 200;
  constexpr std::chrono::microseconds nap{50};
  const auto start = std::chrono::steady_clock::now();
  for (int attempt = 0; !condition(); ++attempt) {
    post_receives(source);
    if (attempt < num_yields) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(nap);
    }
  }
  waiting_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Executor::finish_sends(const MiniBatchSource& source) {
  for (Direction* direction : {&forward_, &backward_})
    for (Slot& slot : direction->slots) wait_until(source, [&] { return slot.settled(); });
}

double Executor::take_waiting_seconds() { return std::exchange(waiting_seconds_, 0.0); }

std::size_t Executor::buffer_bytes() const {
  std::size_t bytes = 0;
  for (const Direction* direction : {&forward_, &backward_})
    for (const Slot& slot : direction->slots) bytes += slot.state.bytes() + slot.adjoint.bytes();
  return bytes;
}

}  // namespace revode
