#include "commands/benchmark.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>

#include <fmt/format.h>

#include "revode/core/activity.hpp"
#include "revode/data/dataset.hpp"

namespace revode {
namespace {

using Clock = std::chrono::steady_clock;

/// Seconds that `action` takes, from a common start to the end of the last rank.
template <typename Action>
double time_together(const Communicator& communicator, Action&& action) {
  communicator.barrier();
  const Clock::time_point start = Clock::now();
  action();
  const double mine = std::chrono::duration<double>(Clock::now() - start).count();
  return std::ranges::max(communicator.all_gather(std::span<const double>(&mine, 1)));
}

/// The mini-batch of a step: the epoch's order, from its beginning again where it ends.
std::vector<std::int64_t> indices_of_step(const std::vector<std::int64_t>& order, int step,
                                          int batch_size) {
  const std::int64_t steps = static_cast<std::int64_t>(order.size()) / batch_size;
  const auto first = order.begin() + step % steps * batch_size;
  return {first, first + batch_size};
}

}  // namespace

std::vector<double> Measurements::seconds_of(Phase phase, int stage) const {
  std::vector<double> seconds;
  for (const PhaseTimer& timer : phases) seconds.push_back(timer.seconds(phase, stage));
  return seconds;
}

Measurements measure(Network& network, TrainingStep& training, const DataFeed& feed,
                     int num_steps) {
  const RunPlan& plan = network.plan();
  const Config& config = plan.config;
  const Communicator& communicator = network.grid().world();
  network.time_phases();
  PhaseTimer& timer = *network.phase_timer();
  const std::vector<std::int64_t> order = epoch_order(feed.indices(), config.seed, 0);

  Measurements seen;
  for (int step = 0; step < num_warm_up_steps + num_steps; ++step) {
    const ActivityScope at({.what = "times a step", .step = step + 1});
    const MiniBatchSource source =
        feed.mini_batch(indices_of_step(order, step, config.batch_size), 0, plan.num_micro_batches);
    communicator.barrier();
    const double peak = network.backend().measure_peak_flops(network.architecture().precision());

    timer.reset();
    const std::optional<WorkCounts> work_before = network.backend().work_counts();
    const std::int64_t sent_before = network.pipeline().sent_bytes();
    if (TraceRecorder* trace = network.trace()) trace->begin_step(step + 1);
    const double step_seconds = time_together(communicator, [&] {
      const StepReport report = training.compute_gradient(source);
      training.require_finite(source, report, fmt::format("step {} of bench", step + 1));
      training.update(config.learning_rate, report);
    });
    timer.settle();
    const PhaseTimer phases = timer;
    seen.message_bytes = network.pipeline().sent_bytes() - sent_before;
    // The last step's: by then all that is recorded is.
    if (work_before) seen.work_of_step = network.backend().work_counts()->since(*work_before);

    const double forward_seconds =
        time_together(communicator, [&] { network.pipeline().evaluate(source); });
    if (step < num_warm_up_steps) continue;
    seen.peak_flops.push_back(peak);
    seen.step_seconds.push_back(step_seconds);
    seen.phases.push_back(phases);
    seen.forward_seconds.push_back(forward_seconds);
  }
  return seen;
}

}  // namespace revode
