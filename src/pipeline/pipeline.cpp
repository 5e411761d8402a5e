#include "revode/pipeline/pipeline.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "revode/comm/device_messages.hpp"
#include "revode/core/activity.hpp"
#include "revode/core/units.hpp"
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

/// Memory of the backend that messages leave from and arrive in; null where they go through the
/// host's. Collective.
MemorySpace* lendable_of(Backend<float>& backend, const Grid& grid) {
  if (backend.lendable() == nullptr || grid.time().size() == 1) return nullptr;
  bool is_taken = false;
  grid.world().agree([&] { is_taken = takes_device_memory(); });
  return is_taken ? backend.lendable() : nullptr;
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
  return seconds_since(start);
}

/// Each micro-batch's from the replica that took it.
SweepResult of_all_replicas(const SweepResult& mine, const Grid& grid) {
  std::vector<double> packed;
  for (const MicroBatchResult& result : mine.micro_batches)
    packed.insert(packed.end(), {result.loss_sum, static_cast<double>(result.num_correct),
                                 static_cast<double>(result.num_samples)});
  const std::vector<double> all = grid.data().all_gather(packed);
  SweepResult result;
  for (std::size_t m = 0; m < mine.micro_batches.size(); ++m) {
    const double* of = &all[grid.replica_of(static_cast<int>(m)) * packed.size() + 3 * m];
    result.micro_batches.push_back(
        {of[0], static_cast<std::int64_t>(of[1]), static_cast<int>(of[2])});
  }
  return result;
}

}  // namespace

Activity Pipeline::activity_of(const Instruction& instruction,
                               const std::vector<int>& micro_batches) const {
  const auto& [operation, work] = instruction;
  const bool ahead = work.sweep == Sweep::forward;
  Activity activity{.what = {},
                    .waits_for = Activity::everybody,
                    .micro_batch = micro_batches[work.micro_batch],
                    .slice = work.slice};
  switch (operation) {
    case Operation::receive:
      activity.what = ahead ? "waits for what enters the slice forward"
                            : "waits for what enters the slice backward";
      activity.waits_for =
          grid_.time().rank_in_job(placement_.rank_of(slice_before(work, placement_)));
      break;
    case Operation::compute:  // Until there is a buffer. NetworkWork says when it computes.
      activity.what = "waits for a buffer to be free";
      break;
    case Operation::send:
      activity.what =
          ahead ? "sends what left the slice forward" : "sends what left the slice backward";
      activity.waits_for = Activity::nobody;
      break;
  }
  return activity;
}

Pipeline::Pipeline(const Grid& grid, const Placement& placement,
                   std::vector<TimeSlice<float>*> slices, Backend<float>& backend,
                   int largest_micro_batch)
    : grid_(grid),
      placement_(placement),
      rank_(grid.time().rank()),
      slices_(std::move(slices)),
      backend_(backend),
      slot_size_(slot_size_of(slices_, largest_micro_batch)),
      transport_(grid.time(), slot_size_.state, slot_size_.adjoint),
      lendable_(lendable_of(backend_, grid)),
      mailbox_(rank_, placement_, transport_, slot_size_, backend_, lendable_),
      executor_(mailbox_) {
  // The MPI library moves large messages only inside its calls: look in while the kernels work.
  backend_.set_progress([this] {
    if (!playing_) return;
    mailbox_.progress();
    if (gradients_ != nullptr) gradients_->progress();
  });
}

Pipeline::~Pipeline() { backend_.set_progress({}); }

std::vector<int> Pipeline::own_micro_batches(int num_micro_batches) const {
  std::vector<int> own;
  for (int m = 0; m < num_micro_batches; ++m)
    if (grid_.replica_of(m) == grid_.replica()) own.push_back(m);
  return own;
}

const Program& Pipeline::program_of(const ScheduleRule* rule, int num_micro_batches) {
  Made& made = rule != nullptr ? trained_ : evaluated_;
  if (made.rule != rule || made.num_micro_batches != num_micro_batches) {
    std::vector<Program> programs = rule != nullptr
                                        ? make_programs(*rule, placement_, num_micro_batches)
                                        : make_forward_programs(placement_, num_micro_batches);
    made = {rule, num_micro_batches, std::move(programs[rank_])};
    mailbox_.reserve(made.program);
  }
  return made.program;
}

void Pipeline::prepare(const ScheduleRule& rule, int num_micro_batches) {
  const auto own = static_cast<int>(own_micro_batches(num_micro_batches).size());
  program_of(&rule, own);
}

void Pipeline::train(const ScheduleRule& rule, const MiniBatchSource& source,
                     const OnLogits& on_logits, GradientListener* gradients) {
  sweep(&rule, source, Mode::train,
        {.on_logits = on_logits, .gradients = gradients, .timer = timer_, .trace = trace_});
}

SweepResult Pipeline::result() {
  const SweepResult mine = work_->result();
  return grid_.num_replicas() == 1 ? mine : of_all_replicas(mine, grid_);
}

SweepResult Pipeline::evaluate(const MiniBatchSource& source, const OnLogits& on_logits) {
  sweep(nullptr, source, Mode::evaluate, {.on_logits = on_logits, .timer = timer_});
  return result();
}

// The lowest micro-batch of all slices, in it the first layer.
std::optional<NonFiniteLayer> Pipeline::inspect(const MiniBatchSource& source) {
  sweep(nullptr, source, Mode::inspect, {.timer = timer_});
  result();
  std::optional<NonFiniteLayer> first;
  for (const TimeSlice<float>* slice : slices_) {
    const auto found = slice->non_finite_layer();
    if (found && (!first || found->micro_batch < first->micro_batch ||
                  (found->micro_batch == first->micro_batch && found->layer < first->layer)))
      first = found;
  }
  return first;
}

void Pipeline::sweep(const ScheduleRule* rule, const MiniBatchSource& source, Mode mode,
                     SweepObservers observers) {
  const std::vector<int> own = own_micro_batches(static_cast<int>(source.micro_batches.size()));
  TraceRecorder* trace = observers.trace;
  gradients_ = observers.gradients;
  NetworkWork& work =
      work_.emplace(placement_, rank_, slices_, backend_, source, own, mode, std::move(observers));
  mailbox_.set_trace(trace);
  executor_.begin(program_of(rule, static_cast<int>(own.size())), work);
  double waiting = 0;
  playing_ = true;
  while (const Instruction* next = executor_.next()) {
    const ActivityScope at(activity_of(*next, own));
    if (executor_.try_next()) continue;
    // A rank that waits goes on posting receives, so that no two can wait for each other's.
    const PhaseScope timed(timer_, Phase::waiting);
    const TraceScope traced(trace, TraceAction::wait);
    waiting += wait_until([&] { return executor_.is_ready(); });
  }
  playing_ = false;
  const ActivityScope at(
      {.what = "waits until its messages have left", .waits_for = Activity::everybody});
  const PhaseScope timed(timer_, Phase::waiting);
  const TraceScope traced(trace, TraceAction::wait);
  waiting += wait_until([&] {
    mailbox_.progress();
    return mailbox_.idle();
  });
  if (mode == Mode::train) {
    waiting_seconds_ += waiting;
    work_seconds_ += work.work_seconds();
  }
  work.finish();
  damaged_ = mailbox_.damaged_messages();
}

double Pipeline::take_waiting_seconds() { return std::exchange(waiting_seconds_, 0.0); }
double Pipeline::take_work_seconds() { return std::exchange(work_seconds_, 0.0); }

}  // namespace revode
