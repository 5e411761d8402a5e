#include "revode/pipeline/pipeline.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "revode/pipeline/simulation.hpp"

namespace revode {
namespace {

Mailbox::SlotSize slot_size_of(const std::vector<TimeSlice<float>*>& slices, int batch) {
  Mailbox::SlotSize size;
  for (const TimeSlice<float>* slice : slices) {
    size.state = std::max(size.state, slice->message_capacity(batch));
    size.adjoint = std::max(size.adjoint, slice->adjoint_capacity(batch));
  }
  return size;
}

/// Calls attempt() until it is true. It yields, then naps: on hosts with more ranks than cores a
/// spinning rank would take the time of one that works. Returns the seconds that took.
template <typename Attempt>
double wait_until(Attempt&& attempt) {
  constexpr int num_yields = 200;
  constexpr std::chrono::microseconds nap{50};
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; !attempt(); ++i) {
    if (i < num_yields) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(nap);
    }
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Pipeline::Pipeline(const Communicator& communicator, const Placement& placement,
                   std::vector<TimeSlice<float>*> slices, Backend<float>& backend,
                   int largest_micro_batch)
    : placement_(placement),
      rank_(communicator.rank()),
      slices_(std::move(slices)),
      backend_(backend),
      transport_(communicator),
      mailbox_(rank_, placement_, transport_, slot_size_of(slices_, largest_micro_batch), backend_),
      executor_(mailbox_) {
  // The MPI library moves large messages only inside its calls: look in while the kernels work.
  backend_.set_progress([this] {
    if (playing_) mailbox_.progress();
  });
}

Pipeline::~Pipeline() { backend_.set_progress({}); }

const Program& Pipeline::program_of(const ScheduleRule* rule, int num_micro_batches) {
  Made& made = rule != nullptr ? trained_ : evaluated_;
  if (made.rule != rule || made.num_micro_batches != num_micro_batches) {
    std::vector<Program> programs = rule != nullptr
                                        ? make_programs(*rule, placement_, num_micro_batches)
                                        : make_forward_programs(placement_, num_micro_batches);
    made = {rule, num_micro_batches, std::move(programs[rank_])};
  }
  return made.program;
}

void Pipeline::prepare(const ScheduleRule& rule, int num_micro_batches) {
  mailbox_.reserve(program_of(&rule, num_micro_batches));
}

SweepResult Pipeline::train(const ScheduleRule& rule, const MiniBatchSource& source,
                            const OnLogits& on_logits) {
  NetworkWork work(placement_, rank_, slices_, source, Mode::train, on_logits, timer_);
  return play(&rule, work, static_cast<int>(source.micro_batches.size()));
}

SweepResult Pipeline::evaluate(const MiniBatchSource& source, const OnLogits& on_logits) {
  NetworkWork work(placement_, rank_, slices_, source, Mode::evaluate, on_logits, timer_);
  return play(nullptr, work, static_cast<int>(source.micro_batches.size()));
}

// The lowest micro-batch of all slices, in it the first layer.
std::optional<NonFiniteLayer> Pipeline::inspect(const MiniBatchSource& source) {
  NetworkWork work(placement_, rank_, slices_, source, Mode::inspect, {}, timer_);
  play(nullptr, work, static_cast<int>(source.micro_batches.size()));
  std::optional<NonFiniteLayer> first;
  for (const TimeSlice<float>* slice : slices_) {
    const auto found = slice->non_finite_layer();
    if (found && (!first || found->micro_batch < first->micro_batch ||
                  (found->micro_batch == first->micro_batch && found->layer < first->layer)))
      first = found;
  }
  return first;
}

SweepResult Pipeline::play(const ScheduleRule* rule, NetworkWork& work, int num_micro_batches) {
  executor_.begin(program_of(rule, num_micro_batches), work);
  playing_ = true;
  while (executor_.next() != nullptr) {
    if (executor_.try_next()) continue;
    // A rank that waits goes on posting receives, so that no two can wait for each other's.
    const PhaseScope timed(timer_, Phase::waiting);
    waiting_seconds_ += wait_until([&] { return executor_.is_ready(); });
  }
  playing_ = false;
  const PhaseScope timed(timer_, Phase::waiting);
  waiting_seconds_ += wait_until([&] {
    mailbox_.progress();
    return mailbox_.idle();
  });
  return work.finish();
}

double Pipeline::take_waiting_seconds() { return std::exchange(waiting_seconds_, 0.0); }

}  // namespace revode
