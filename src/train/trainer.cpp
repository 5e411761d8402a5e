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

/// Steps that --on-nonfinite skip passes over one after the other: weights that have diverged give
/// no finite step any more, however long one waits.
constexpr std::int64_t most_skipped_in_a_row = 20;

/// Skipped steps that are explained, which takes a sweep each; the others are counted.
constexpr int most_skip_notes = 3;

constexpr const char* divergence_advice =
    "a smaller --learning-rate or --step-size, or --clip-norm, may help";

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
  if (goes_back() && !finished()) settle_rewind_step();
}

void Trainer::open_folder() {
  const std::string block = start_block(session_.network());
  const nlohmann::ordered_json record =
      start_record(session_.network(), progress_.step, progress_.epoch);
  const bool resumes = start_.kind == StartPoint::Kind::resume;
  const std::vector<std::string> set_aside = prepare_folder(
      resumes ? std::optional(progress_.step) : std::nullopt, progress_.num_rewinds(), record);
  report_.begin(set_aside, record, block);
}

/// Collective; see RunFolder::prepare(). record: of the start from there.
std::vector<std::string> Trainer::prepare_folder(std::optional<std::int64_t> step,
                                                 std::int64_t num_rewinds,
                                                 const nlohmann::ordered_json& record) {
  std::vector<std::string> set_aside;
  world_.agree([&] {
    if (!world_.is_root()) return;
    start_.folder->check_held();
    set_aside = start_.folder->prepare(config_, step, num_rewinds);
    start_.folder->metrics().write(record);
    best_in_file_ = std::max(progress_.best_accuracy, start_.folder->best_accuracy());
  });
  // All ranks write best.h5 together: they decide alike.
  world_.broadcast(std::span<double>(&best_in_file_, 1), 0);
  return set_aside;
}

// A run that was stopped and went on must go back to where one that nobody stopped would: to a
// checkpoint of --checkpoint-every, never to what a signal saved. So there is always one, if need
// be of what the run begins with.
void Trainer::settle_rewind_step() {
  std::int64_t found = -1;
  world_.agree([&] {
    if (!world_.is_root()) return;
    for (const std::filesystem::path& file : list_checkpoints(start_.folder->path())) {
      const std::int64_t step = step_of_checkpoint(file.filename().string()).value_or(-1);
      if (step <= progress_.step && step % checkpoint_every_ == 0) found = step;
    }
    if (found < 0 && std::filesystem::exists(checkpoint_of(progress_.step))) found = progress_.step;
  });
  found = world_.all_gather(found).front();
  rewind_step_ = found >= 0 ? found : progress_.step;
  if (found < 0) insist(pauses_at_end(), [&] { return save(); });
}

ExitStatus Trainer::run() {
  catch_stop_signals();
  while (true) {
    try {
      return train();
    } catch (const NonFiniteError& error) {
      if (!rewind_step_) throw;
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
    const bool due = is_planned_save() || retry_is_due();
    if (finished() || !(stopped || due)) continue;
    // Without the signal the step after this would have failed, and gone back: so it will when the
    // run goes on.
    saved = is_planned_save() || !goes_back() || !non_finite_weights();
    if (!saved) continue;
    if (stopped) {
      insist(pauses_at_stop(), [&] { return save(); });
    } else {
      save_or_go_on();
    }
    // What is saved counts: the run does not end for want of a trace.
    if (trace_file_) trace_file_->write(TraceFile::Failure::note);
  }
  if (stopped && !finished()) {
    insist(pauses_at_stop(), [&] { return failure_of([&] { require_metrics(); }); });
    report_.stopped(progress_, out_of_time_ ? "before the time limit" : "by a signal",
                    last_checkpoint(), saved);
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
  out_of_time_ = world_.is_root() && time_limit_.allows_one_round_only(seconds_since(begun_));
  TrainingStep& training = session_.training();
  const StepReport report =
      training.compute_gradient(source, stop_signal_seen() || out_of_time_ || report_.must_stop());
  if (report.is_finite()) {
    training.update(rate, report);
    progress_.skipped_in_a_row = 0;
    progress_.epoch_loss_sum += report.loss * static_cast<double>(report.num_samples);
    progress_.epoch_correct += report.num_correct;
    progress_.epoch_samples += report.num_samples;
    progress_.epoch_regularization_sum += report.regularization;
    progress_.range += report.range;
  } else {
    skip_update(source, report,
                fmt::format("step {} (epoch {})", progress_.step + 1, progress_.epoch));
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
  if (session_.plan().on_nonfinite != OnNonFinite::skip)
    throw NonFiniteError(explain(), last_checkpoint_in_words());
  ++progress_.skipped;
  if (++progress_.skipped_in_a_row >= most_skipped_in_a_row)
    throw NonFiniteError(
        explain(),
        fmt::format("it is the {}th step in a row without an update, which --on-nonfinite "
                    "skip can't mend; {}",
                    most_skipped_in_a_row, last_checkpoint_in_words()));
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
        found,
        fmt::format("the run has gone back {} time{} (--max-rewinds {}); {}", rewound_to.size(),
                    rewound_to.size() == 1 ? "" : "s", max_rewinds, last_checkpoint_in_words()));
  report_.rewinding(found, checkpoint_of(*rewind_step_), progress_.num_rewinds() + 1, max_rewinds);

  RunProgress progress = session_.go_back(checkpoint_of(*rewind_step_));
  rewound_to.push_back(progress.step);
  progress.rewound_to = std::move(rewound_to);
  progress.slow_until = std::max(progress_.slow_until, found.step + steps_per_epoch_);
  progress_ = std::move(progress);
  last_saved_step_ = progress_.step;
  saved_here_ = published_ = true;
  retry_.succeeded();
  last_evaluation_step_ = -1;

  const std::vector<std::string> set_aside =
      prepare_folder(progress_.step, progress_.num_rewinds() - 1,
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
    if (!std::isfinite(last_evaluation_->loss))
      throw NonFiniteError(
          {.what = "the test loss is not finite",
           .event =
               fmt::format("the test loss after step {} is not finite ({}): the run has diverged",
                           progress_.step, last_evaluation_->loss),
           .advice = divergence_advice,
           .step = progress_.step},
          last_checkpoint_in_words());
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
  insist(pauses_at_end(), [&] { return failure_of([&] { require_metrics(); }); });
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
    if (rewind_step_ && is_planned_save()) rewind_step_ = progress_.step;
  }
  Failure failure = failure_of([&] {
    world_.agree([&] {
      if (world_.is_root())
        start_.folder->publish(progress_.step, config_.keep_checkpoints, rewind_step_);
    });
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

void Trainer::require_metrics() {
  world_.agree([&] { report_.require_metrics(); });
}

void Trainer::go_on_without(const Error& failure, const std::string& what_now) {
  if (config_.on_save_error == "stop") throw Error(failure);
  report_.save_failed(progress_, failure.what(), what_now);
}

// What the ranks have not agreed on ends the run.
Trainer::Failure Trainer::failure_of(const std::function<void()>& write) const {
  try {
    write();
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

/// Collective. Which of the weights, in words that are the same on every rank.
std::optional<std::string> Trainer::non_finite_weights() {
  const std::optional<std::string> mine = session_.first_non_finite();
  const std::vector<std::int64_t> found = world_.all_gather(std::int64_t{mine.has_value()});
  const auto first = std::ranges::find(found, 1) - found.begin();
  if (first == std::ssize(found)) return std::nullopt;
  const std::string name = world_.broadcast(mine.value_or(""), static_cast<int>(first));
  return first == 0 ? name : fmt::format("{} (rank {})", name, first);
}

void Trainer::check_weights_are_finite() {
  if (const std::optional<std::string> array = non_finite_weights())
    throw NonFiniteError(
        {.what = "the weights are not finite",
         .event = fmt::format("after step {}, {} is not finite: the run has diverged",
                              progress_.step, *array),
         .advice = divergence_advice,
         .step = progress_.step},
        last_checkpoint_in_words());
}

std::string Trainer::checkpoint_of(std::int64_t step) const {
  return (std::filesystem::path(config_.output) / checkpoint_name(step)).string();
}

std::string Trainer::last_checkpoint() const {
  return saved_here_ ? checkpoint_of(last_saved_step_) : start_.file;
}

std::string Trainer::last_checkpoint_in_words() const {
  return last_saved_step_ < 0 ? "no checkpoint had been written yet"
                              : fmt::format("the last checkpoint is {}", last_checkpoint());
}

}  // namespace revode
