#include "revode/train/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/core/activity.hpp"
#include "revode/core/units.hpp"
#include "revode/run/stop_signals.hpp"
#include "revode/train/job_watch.hpp"
#include "revode/train/provenance.hpp"

namespace revode {
namespace {

/// Steps that --on-nonfinite skip passes over one after the other: weights that have diverged give
/// no finite step any more, however long one waits.
constexpr std::int64_t most_skipped_in_a_row = 20;

/// Skipped steps that are explained, which takes a sweep each; the others are counted.
constexpr int most_skip_notes = 3;

using Clock = std::chrono::steady_clock;

TimeLimit limit_from_now(const RunPlan& plan) {
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  // A save writes weights and momentum.
  return time_limit_of(plan.time_limit_seconds, std::getenv("SLURM_JOB_END_TIME"), now,
                       2.0 * static_cast<double>(plan.architecture.num_parameters()));
}

/// The first of the two bounds.
std::int64_t last_step_of(const Config& config, std::int64_t steps_per_epoch) {
  return std::min(*config.epochs * steps_per_epoch,
                  config.steps.value_or(std::numeric_limits<std::int64_t>::max()));
}

}  // namespace

// 1. Who sees to it that all goes on.  2. Data, network, weights.  3. How far to go.  4. Output
// files.
Trainer::Trainer(const RunPlan& plan, StartPoint start, const Communicator& world)
    : hang_watch_(watch_over_run(plan.config, world)),
      time_limit_(limit_from_now(plan)),
      world_(world),
      start_(std::move(start)),
      session_(plan, start_, world),
      config_(session_.config()),
      rate_policy_{.base = config_.learning_rate,
                   .decay = config_.lr_decay,
                   .decay_epochs = config_.lr_decay_epochs,
                   .warmup_epochs = config_.warmup_epochs},
      progress_(session_.start_progress()),
      steps_per_epoch_(session_.steps_per_epoch()),
      last_step_(last_step_of(config_, steps_per_epoch_)),
      report_(session_, start_, last_step_),
      saver_(session_, start_, report_, time_limit_) {
  if (!config_.trace.empty()) trace_file_.emplace(session_.network());
  open_folder();
  if (goes_back() && !finished()) saver_.settle_rewind_step(progress_);
}

void Trainer::open_folder() {
  const std::string block = start_block(session_.network());
  const nlohmann::ordered_json record =
      start_record(session_.network(), progress_.step, progress_.epoch);
  const bool resumes = start_.kind == StartPoint::Kind::resume;
  const std::vector<std::string> set_aside =
      saver_.prepare(progress_, resumes ? std::optional(progress_.step) : std::nullopt,
                     progress_.num_rewinds(), record);
  report_.begin(set_aside, record, block);
}

ExitStatus Trainer::run() {
  catch_stop_signals();
  while (true) {
    try {
      return train();
    } catch (const NonFiniteError& error) {
      if (!saver_.rewind_step()) throw;
      rewind(error.found());
    }
  }
}

ExitStatus Trainer::train() {
  bool stopped = false, saved = true;
  while (!finished() && !stopped) {
    const auto round = Clock::now();
    stopped = step().stop_requested;
    if (progress_.step % steps_per_epoch_ == 0) finish_epoch();
    time_limit_.note_round(seconds_since(round));
    saver_.attend(progress_);
    if (finished() || !(saver_.is_due(progress_) || stopped)) continue;
    // Without the signal the step after this would have failed, and gone back: so it will when the
    // run goes on.
    saved = saver_.is_planned(progress_) || !goes_back() || !session_.non_finite_array();
    if (!saved) continue;
    if (stopped) {
      saver_.save_at_stop(progress_);
    } else {
      saver_.save(progress_);
    }
    // What is saved counts: the run does not end for want of a trace.
    if (trace_file_) trace_file_->write(TraceFile::Failure::note);
  }
  if (stopped && !finished()) {
    saver_.write_metrics_at_stop(progress_);
    report_.stopped(progress_, out_of_time_ ? "before the time limit" : "by a signal",
                    saver_.last_checkpoint(), saved);
    return ExitStatus::stopped;
  }
  finish();
  return ExitStatus::success;
}

StepReport Trainer::step() {
  const ActivityScope at({.what = "takes a step", .step = progress_.step + 1});
  const auto start = Clock::now();
  if (TraceRecorder* trace = session_.network().trace()) trace->begin_step(progress_.step + 1);
  const std::int64_t step_in_epoch = progress_.step % steps_per_epoch_;
  const MiniBatchSource source =
      session_.mini_batch(progress_.epoch, step_in_epoch, progress_.rewound_to);
  const double rate =
      progress_.rate_factor() * rate_policy_.at(progress_.epoch, step_in_epoch, steps_per_epoch_);

  // One rank looks at the clock, so that all stop at the same step.
  out_of_time_ = world_.is_root() && time_limit_.allows_one_round_only(seconds_since(begun_),
                                                                       saver_.is_writing() ? 2 : 1);
  TrainingStep& training = session_.training();
  const int check_every = config_.check_reversal;
  training.check_reversal(check_every > 0 && (progress_.step + 1) % check_every == 0);
  const StepReport report =
      training.compute_gradient(source, stop_signal_seen() || out_of_time_ || report_.must_stop());
  const std::string when = fmt::format("step {} (epoch {})", progress_.step + 1, progress_.epoch);
  report_.repeated(report.repeated, when, progress_.epoch, progress_.step + 1);
  if (report.damage) {
    saver_.settle(progress_);
    throw damage_error(*report.damage, when,
                       fmt::format("{}; {}", resume_advice, saver_.last_checkpoint_in_words()));
  }
  if (report.is_finite()) {
    training.update(rate, report);
    progress_.skipped_in_a_row = 0;
    progress_.epoch_loss_sum += report.loss * static_cast<double>(report.num_samples);
    progress_.epoch_correct += report.num_correct;
    progress_.epoch_samples += report.num_samples;
    progress_.epoch_regularization_sum += report.regularization;
    progress_.range += report.range;
  } else {
    skip_update(source, report, when);
  }
  ++progress_.step;
  progress_.samples_seen += report.num_samples;
  progress_.learning_rate = rate;
  report_.step(report, progress_, seconds_since(start));
  return report;
}

// Or throws, where the run is not to skip, or has skipped too many.
void Trainer::skip_update(const MiniBatchSource& source, const StepReport& report,
                          const std::string& when) {
  const auto explain = [&] {
    NonFinite found = session_.training().explain(source, report, when);
    found.step = progress_.step + 1;
    return found;
  };
  if (session_.plan().on_nonfinite != OnNonFinite::skip) {
    saver_.settle(progress_);
    throw NonFiniteError(explain(), saver_.last_checkpoint_in_words());
  }
  ++progress_.skipped;
  if (++progress_.skipped_in_a_row >= most_skipped_in_a_row) {
    saver_.settle(progress_);
    throw NonFiniteError(
        explain(),
        fmt::format("it is the {}th step in a row without an update, which --on-nonfinite "
                    "skip can't mend; {}",
                    most_skipped_in_a_row, saver_.last_checkpoint_in_words()));
  }
  if (num_skip_notes_ == most_skip_notes) return;
  ++num_skip_notes_;
  report_.skipped(explain(), num_skip_notes_ == most_skip_notes);
}

// 1. What the checkpoint holds.  2. What makes the way from there another one: the number of
// rewinds, which the run has then.  3. The folder, as if the run had been stopped and went on.
// Killed before the next checkpoint, a run comes here again, by the same way.
void Trainer::rewind(const NonFinite& found) {
  std::vector<std::int64_t> rewound_to = progress_.rewound_to;
  const int max_rewinds = session_.plan().max_rewinds;
  if (progress_.num_rewinds() >= max_rewinds)
    throw NonFiniteError(
        found, fmt::format("the run has gone back {} time{} (--max-rewinds {}); {}",
                           rewound_to.size(), rewound_to.size() == 1 ? "" : "s", max_rewinds,
                           saver_.last_checkpoint_in_words()));
  const std::string checkpoint = saver_.checkpoint_of(*saver_.rewind_step());
  report_.rewinding(found, checkpoint, progress_.num_rewinds() + 1, max_rewinds);

  RunProgress progress = session_.go_back(checkpoint);
  rewound_to.push_back(progress.step);
  progress.rewound_to = std::move(rewound_to);
  progress.slow_until = std::max(progress_.slow_until, found.step + steps_per_epoch_);
  progress_ = std::move(progress);
  saver_.went_back();
  last_evaluation_step_ = -1;

  const std::vector<std::string> set_aside =
      saver_.prepare(progress_, progress_.step, progress_.num_rewinds() - 1,
                     start_record(session_.network(), progress_.step, progress_.epoch));
  report_.rewound(found, progress_, set_aside);
}

Evaluation Trainer::evaluate_test() {
  if (last_evaluation_step_ != progress_.step) {
    const ActivityScope at({.what = "evaluates", .step = progress_.step});
    report_.evaluating(progress_);
    const DataFeed& test_data = session_.test_data();
    last_evaluation_ = evaluate(session_.network(), test_data, test_data.indices());
    last_evaluation_step_ = progress_.step;
    report_.repeated(last_evaluation_->repeated,
                     fmt::format("evaluation after step {}", progress_.step), progress_.epoch,
                     progress_.step);
    if (!std::isfinite(last_evaluation_->loss)) {
      saver_.settle(progress_);
      throw NonFiniteError(
          {.what = "the test loss is not finite",
           .event =
               fmt::format("the test loss after step {} is not finite ({}): the run has diverged",
                           progress_.step, last_evaluation_->loss),
           .advice = divergence_advice,
           .step = progress_.step},
          saver_.last_checkpoint_in_words());
    }
  }
  return *last_evaluation_;
}

void Trainer::finish_epoch() {
  std::optional<Evaluation> test;
  bool best = false;
  if (config_.eval_every > 0 && (progress_.epoch + 1) % config_.eval_every == 0) {
    test = evaluate_test();
    best = test->accuracy > progress_.best_accuracy;
    progress_.best_accuracy = std::max(progress_.best_accuracy, test->accuracy);
  }
  report_.epoch(progress_, test, best);
  ++progress_.epoch;
  progress_.epoch_loss_sum = progress_.epoch_regularization_sum = 0;
  progress_.epoch_correct = progress_.epoch_samples = 0;
  if (test) saver_.keep_if_best(progress_, *test);
}

// As at the end of an epoch the evaluation comes first: a run that has diverged while its weights
// are still finite must not take the place of the last good checkpoint.
void Trainer::finish() {
  const Evaluation test = evaluate_test();
  saver_.save_at_end(progress_, test);
  const MemoryReport memory = gather_memory(world_);
  report_.end(progress_, test, saver_.best_accuracy(), memory, saver_.last_checkpoint());
  if (trace_file_) trace_file_->write(TraceFile::Failure::error);
}

}  // namespace revode
