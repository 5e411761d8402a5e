#include "revode/train/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "revode/checkpoint/checkpoint_files.hpp"
#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/files/host.hpp"
#include "revode/run/stop_signals.hpp"
#include "revode/train/provenance.hpp"
#include "revode/train/replicas.hpp"

namespace revode {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

TimeLimit limit_from_now(const RunPlan& plan) {
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  // A save writes weights and momentum.
  return time_limit_of(plan.time_limit_seconds, std::getenv("SLURM_JOB_END_TIME"), now,
                       2.0 * static_cast<double>(plan.architecture.num_parameters()));
}

/// Collective.
HangWatch::Job job_of(const Communicator& world) {
  const std::string place = fmt::format("process {} on {}", ::getpid(), host_name());
  return {.rank = world.rank(),
          .places = world.all_gather(place),
          .name = world.broadcast(fmt::format("{} at {}", place, utc_time()), 0)};
}

/// Collective; nothing where --hang-timeout says so.
std::optional<HangWatch> watch_over(const Config& config, const Communicator& world) {
  HangWatch::Job job = job_of(world);
  if (config.hang_timeout == 0) return std::nullopt;
  return std::optional<HangWatch>(std::in_place, std::move(job), config.output, config.hang_timeout,
                                  end_hanging_job);
}

using Pauses = std::vector<std::chrono::seconds>;

/// Between tries to save what the run ends with: a minute in all where it is done, less where who
/// stopped it may soon end it.
Pauses pauses_at_end() {
  using namespace std::chrono_literals;
  return {1s, 2s, 4s, 8s, 16s, 32s};
}
Pauses pauses_at_stop() {
  using namespace std::chrono_literals;
  return {1s, 2s};
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
    : hang_watch_(watch_over(plan.config, world)),
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
      checkpoint_every_(config_.checkpoint_every.value_or(steps_per_epoch_)),
      report_(session_, start_, last_step_) {
  if (start_.kind == StartPoint::Kind::resume) last_saved_step_ = progress_.step;
  if (!config_.trace.empty()) trace_file_.emplace(session_.network());
  open_folder();
}

void Trainer::open_folder() {
  const std::string block = start_block(session_.network());
  const nlohmann::ordered_json record =
      start_record(session_.network(), progress_.step, progress_.epoch);
  const bool resumes = start_.kind == StartPoint::Kind::resume;
  std::vector<std::string> set_aside;
  world_.agree([&] {
    if (!world_.is_root()) return;
    set_aside =
        start_.folder->prepare(config_, resumes ? std::optional(progress_.step) : std::nullopt);
    start_.folder->metrics().write(record);
    best_in_file_ = std::max(progress_.best_accuracy, start_.folder->best_accuracy());
  });
  // All ranks write best.h5 together: they decide alike.
  world_.broadcast(std::span<double>(&best_in_file_, 1), 0);
  report_.begin(set_aside, record, block);
}

ExitStatus Trainer::run() {
  catch_stop_signals();
  bool stopped = false;
  while (!finished() && !stopped) {
    const auto round = Clock::now();
    stopped = step().stop_requested;
    if (progress_.step % steps_per_epoch_ == 0) finish_epoch();
    time_limit_.note_round(seconds_since(round));
    const bool due = progress_.step % checkpoint_every_ == 0 || retry_is_due();
    if (finished() || !(stopped || due)) continue;
    if (stopped) {
      insist(pauses_at_stop(), [&] { return save(); });
    } else {
      save_or_go_on();
    }
    // What is saved counts: the run does not end for want of a trace.
    if (trace_file_) trace_file_->write(TraceFile::Failure::note);
  }
  if (stopped && !finished()) {
    insist(pauses_at_stop(), [&] { return failure_of([&] { report_.require_metrics(); }); });
    report_.stopped(progress_, out_of_time_ ? "before the time limit" : "by a signal",
                    last_checkpoint());
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
  const MiniBatchSource source = session_.mini_batch(progress_.epoch, step_in_epoch);
  const double rate = rate_policy_.at(progress_.epoch, step_in_epoch, steps_per_epoch_);

  // One rank looks at the clock, so that all stop at the same step.
  out_of_time_ = world_.is_root() && time_limit_.allows_one_round_only(seconds_since(begun_));
  TrainingStep& training = session_.training();
  const StepReport report =
      training.compute_gradient(source, stop_signal_seen() || out_of_time_ || report_.must_stop());
  training.require_finite(source, report,
                          fmt::format("step {} (epoch {})", progress_.step + 1, progress_.epoch),
                          last_checkpoint_in_words());
  training.update(rate, report);

  ++progress_.step;
  progress_.samples_seen += report.num_samples;
  progress_.learning_rate = rate;
  progress_.epoch_loss_sum += report.loss * static_cast<double>(report.num_samples);
  progress_.epoch_correct += report.num_correct;
  progress_.epoch_samples += report.num_samples;
  progress_.epoch_regularization_sum += report.regularization;
  progress_.range += report.range;
  report_.step(report, progress_, seconds_since(start));
  return report;
}

Evaluation Trainer::evaluate_test() {
  if (last_evaluation_step_ != progress_.step) {
    const ActivityScope at({.what = "evaluates", .step = progress_.step});
    report_.evaluating(progress_);
    const DataFeed& test_data = session_.test_data();
    last_evaluation_ = evaluate(session_.network(), test_data, test_data.indices());
    last_evaluation_step_ = progress_.step;
    if (!std::isfinite(last_evaluation_->loss))
      throw Error(
          ExitStatus::failure,
          fmt::format("the test loss after step {} is not finite ({}): the run has diverged; {}; a "
                      "smaller --learning-rate or --step-size, or --clip-norm, may help",
                      progress_.step, last_evaluation_->loss, last_checkpoint_in_words()),
          ErrorScope::all_ranks);
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
  if (!test) return;
  if (const Failure failure = keep_if_best(*test))
    go_on_without(*failure, "training goes on, and best.h5 stays as it is until a better one");
}

// As at the end of an epoch the evaluation comes first: a run that has diverged while its weights
// are still finite must not take the place of the last good checkpoint.
void Trainer::finish() {
  const Evaluation test = evaluate_test();
  const auto is_saved = [&] { return progress_.step == last_saved_step_ && published_; };
  insist(pauses_at_end(), [&] { return is_saved() ? Failure() : save(); });
  insist(pauses_at_end(), [&] { return keep_if_best(test); });
  report_.end_record(progress_, test);
  insist(pauses_at_end(), [&] { return failure_of([&] { report_.require_metrics(); }); });
  const MemoryReport memory = gather_memory(world_);
  report_.end(progress_, test, best_in_file_, memory, last_checkpoint());
  if (trace_file_) trace_file_->write(TraceFile::Failure::error);
}

Trainer::Failure Trainer::save() {
  const auto start = Clock::now();
  Failure failure = write_and_publish();
  if (failure) {
    retry_.failed(seconds_since(begun_));
    return failure;
  }
  if (retry_.is_pending()) report_.saved_again(last_checkpoint(), retry_.num_failures());
  retry_.succeeded();
  time_limit_.note_save(seconds_since(start));
  return std::nullopt;
}

Trainer::Failure Trainer::write_and_publish() {
  if (progress_.step != last_saved_step_) {
    check_weights_are_finite();
    Failure failure = write_file(checkpoint_name(progress_.step), progress_.best_accuracy);
    if (failure) return failure;
    last_saved_step_ = progress_.step;
    saved_here_ = true;
  }
  Failure failure = failure_of([&] {
    if (world_.is_root()) start_.folder->publish(progress_.step, config_.keep_checkpoints);
  });
  published_ = !failure;
  return failure;
}

// Told once: a disk may be full for hours.
void Trainer::save_or_go_on() {
  if (const Failure failure = save())
    go_on_without(*failure, retry_.num_failures() > 1
                                ? ""
                                : "training goes on; tried again after 10 s, then less often, and "
                                  "at the next checkpoint");
}

bool Trainer::retry_is_due() {
  if (!retry_.is_pending()) return false;
  double due = retry_.is_due(seconds_since(begun_)) ? 1 : 0;  // by one clock
  world_.broadcast(std::span<double>(&due, 1), 0);
  return due > 0;
}

void Trainer::insist(const Pauses& pauses, const std::function<Failure()>& write) {
  for (const std::chrono::seconds pause : pauses) {
    const Failure failure = write();
    if (!failure) return;
    go_on_without(*failure, fmt::format("trying again in {} s", pause.count()));
    for (std::int64_t second = 0; second < pause.count(); ++second) {
      const ActivityScope at({.what = "waits before it tries again to save"});
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }
  if (const Failure failure = write()) throw Error(*failure);
}

void Trainer::go_on_without(const Error& failure, const std::string& what_now) {
  if (config_.on_save_error == "stop") throw Error(failure);
  report_.save_failed(progress_, failure.what(), what_now);
}

// What the ranks have not agreed on (MPI itself) ends the run.
Trainer::Failure Trainer::failure_of(const std::function<void()>& write) const {
  try {
    world_.agree(write);
  } catch (const Error& error) {
    if (error.scope() != ErrorScope::all_ranks) throw;
    return Error(ExitStatus::failure,
                 fmt::format("{}; {}", error.what(), last_checkpoint_in_words()),
                 ErrorScope::all_ranks);
  }
  return std::nullopt;
}

// best.h5 is the best of all that has been evaluated, the end of the run included. What a
// checkpoint says of the best accuracy are the epochs alone: a run that was stopped and went on
// says the same as one that was not.
Trainer::Failure Trainer::keep_if_best(const Evaluation& test) {
  if (test.accuracy <= best_in_file_) return std::nullopt;
  check_weights_are_finite();
  Failure failure = write_file("best.h5", test.accuracy);
  if (!failure) best_in_file_ = test.accuracy;
  return failure;
}

Trainer::Failure Trainer::write_file(const std::string& name, double best_accuracy) {
  const ActivityScope at({.what = "saves", .step = progress_.step});
  const TraceScope traced(session_.network().trace(), TraceAction::checkpoint);
  world_.agree([&] {
    if (world_.is_root()) start_.folder->check_held();
  });
  RunProgress progress = progress_;
  progress.best_accuracy = best_accuracy;
  require_equal_replicas(session_.network());
  CheckpointContents contents = session_.contents(progress);
  return failure_of([&] {
    write_together(session_.grid(), std::filesystem::path(config_.output) / name,
                   std::move(contents));
  });
}

void Trainer::check_weights_are_finite() {
  const std::optional<std::string> mine = session_.first_non_finite();
  world_.agree([&] {
    if (mine)
      throw run_error(
          "after step {}, {} is not finite: the run has diverged; {}; a smaller --learning-rate or "
          "--step-size, or --clip-norm, may help",
          progress_.step, *mine, last_checkpoint_in_words());
  });
}

std::string Trainer::last_checkpoint() const {
  if (!saved_here_) return start_.file;
  return (std::filesystem::path(config_.output) / checkpoint_name(last_saved_step_)).string();
}

std::string Trainer::last_checkpoint_in_words() const {
  return last_saved_step_ < 0 ? "no checkpoint had been written yet"
                              : fmt::format("the last checkpoint is {}", last_checkpoint());
}

}  // namespace revode
