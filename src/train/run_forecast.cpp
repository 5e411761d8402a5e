#include "revode/train/run_forecast.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "revode/core/units.hpp"
#include "revode/data/dataset.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/pipeline/simulation.hpp"
#include "revode/train/schedule_choice.hpp"

namespace revode {
namespace {

/// Of `images` images, in micro-batches like those of training, which the replicas share. A long
/// evaluation goes on as a short one ends: at the speed of the rank that has most to do.
double seconds_of_evaluation(const RunPlan& plan, std::int64_t images) {
  const std::int64_t of_micro_batch =
      cut_evenly(plan.config.batch_size, plan.num_micro_batches).front();
  const std::int64_t all = (images + of_micro_batch - 1) / of_micro_batch;
  const std::int64_t of_replica = (all + plan.data_ranks - 1) / plan.data_ranks;
  const auto seconds_of = [&](std::int64_t micro_batches) {
    const auto programs = make_forward_programs(plan.placement, static_cast<int>(micro_batches));
    return simulate_step(plan, programs).seconds / giga;
  };
  // Ranks of several slices take turns between them.
  const std::int64_t slices = plan.placement.num_slices() / plan.placement.num_ranks();
  const std::int64_t some = 3 * slices;
  if (of_replica <= some) return seconds_of(of_replica);
  const double more = seconds_of(some), fewer = seconds_of(some - slices);
  return more +
         static_cast<double>(of_replica - some) / static_cast<double>(slices) * (more - fewer);
}

/// Values and momentum of the rank that has most of them, as messages are copied.
double seconds_of_snapshot(const JobPlan& job) {
  std::int64_t most_parameters = 0;
  for (const JobPlan::Rank& rank : job.ranks)
    most_parameters = std::max(most_parameters, rank.num_parameters);
  double copied_value = 0;
  for (const LayerCosts& of_rank : job.plan.costs)
    copied_value = std::max(copied_value, of_rank.copied_value);
  return 2 * static_cast<double>(most_parameters) * copied_value / giga;
}

}  // namespace

double RunForecast::seconds() const {
  return static_cast<double>(steps) * step_seconds +
         static_cast<double>(num_evaluations) * evaluation_seconds +
         static_cast<double>(num_saves) * save_seconds;
}

RunForecast forecast_run(const JobPlan& job) {
  const Config& config = job.plan.config;
  const DatasetInfo data = dataset_info(config.dataset, config.image_size);
  const double of_class = static_cast<double>(data.num_train_images) / data.num_classes;
  const std::int64_t images =
      data.num_classes * std::max<std::int64_t>(1, std::llround(config.train_fraction * of_class));
  RunForecast run;
  run.step_seconds = job.step_seconds();
  run.steps_an_epoch = images / config.batch_size;
  run.steps = run.steps_an_epoch * config.epochs.value_or(0);
  if (config.steps) run.steps = std::min(run.steps, *config.steps);
  if (run.steps == 0) return run;

  // At the end there is always one of each.
  const auto number_of = [&](std::int64_t steps_between) {
    return (run.steps + steps_between - 1) / steps_between;
  };
  run.num_evaluations =
      config.eval_every > 0 ? number_of(run.steps_an_epoch * config.eval_every) : 1;
  run.evaluation_seconds = seconds_of_evaluation(job.plan, data.num_test_images);
  run.steps_between_saves = config.checkpoint_every.value_or(run.steps_an_epoch);
  run.num_saves = number_of(run.steps_between_saves);
  run.checkpoint_bytes =
      2 * job.plan.architecture.num_parameters() * static_cast<std::int64_t>(sizeof(float));
  run.save_seconds = seconds_of_snapshot(job);
  if (job.checkpoint_rate > 0)
    run.write_seconds = static_cast<double>(run.checkpoint_bytes) / job.checkpoint_rate;
  return run;
}

}  // namespace revode
