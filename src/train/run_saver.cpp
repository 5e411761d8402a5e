#include "revode/train/run_saver.hpp"

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/checkpoint/checkpoint_files.hpp"
#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/core/activity.hpp"
#include "revode/train/replicas.hpp"

namespace revode {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
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

}  // namespace

RunSaver::RunSaver(Session& session, StartPoint& start, RunReport& report, TimeLimit& time_limit)
    : session_(session),
      config_(session.config()),
      world_(session.grid().world()),
      start_(start),
      report_(report),
      time_limit_(time_limit),
      checkpoint_every_(config_.checkpoint_every.value_or(session.steps_per_epoch())) {
  if (start.kind == StartPoint::Kind::resume) last_saved_step_ = session.start_progress().step;
}

std::vector<std::string> RunSaver::prepare(const RunProgress& progress,
                                           std::optional<std::int64_t> step,
                                           std::int64_t num_rewinds,
                                           const nlohmann::ordered_json& record) {
  std::vector<std::string> set_aside;
  world_.agree([&] {
    if (!world_.is_root()) return;
    start_.folder->check_held();
    set_aside = start_.folder->prepare(config_, step, num_rewinds);
    start_.folder->metrics().write(record);
    best_in_file_ = std::max(progress.best_accuracy, start_.folder->best_accuracy());
  });
  // All ranks write best.h5 together: they decide alike.
  world_.broadcast(std::span<double>(&best_in_file_, 1), 0);
  return set_aside;
}

bool RunSaver::is_due(const RunProgress& progress) {
  if (is_planned(progress)) return true;
  if (!retry_.is_pending()) return false;
  double due = retry_.is_due(seconds_since(begun_)) ? 1 : 0;  // by one clock
  world_.broadcast(std::span<double>(&due, 1), 0);
  return due > 0;
}

// Told once: a disk may be full for hours.
void RunSaver::save(const RunProgress& progress) {
  if (const Failure failure = try_to_save(progress))
    go_on_without(progress, *failure,
                  retry_.num_failures() > 1
                      ? ""
                      : "training goes on; tried again after 10 s, then less often, and "
                        "at the next checkpoint");
}

void RunSaver::save_at_stop(const RunProgress& progress) {
  insist(progress, pauses_at_stop(), [&] { return try_to_save(progress); });
}

void RunSaver::write_metrics_at_stop(const RunProgress& progress) {
  insist(progress, pauses_at_stop(), [&] { return write_metrics(); });
}

void RunSaver::save_at_end(const RunProgress& progress, const Evaluation& test) {
  insist(progress, pauses_at_end(), [&] {
    const bool is_saved = progress.step == last_saved_step_ && published_;
    return is_saved ? Failure() : try_to_save(progress);
  });
  insist(progress, pauses_at_end(), [&] { return try_to_keep_if_best(progress, test); });
  report_.end_record(progress, test);
  insist(progress, pauses_at_end(), [&] { return write_metrics(); });
}

void RunSaver::keep_if_best(const RunProgress& progress, const Evaluation& test) {
  if (const Failure failure = try_to_keep_if_best(progress, test))
    go_on_without(progress, *failure,
                  "training goes on, and best.h5 stays as it is until a better one");
}

// A run that was stopped and went on must go back to where one that nobody stopped would: to a
// checkpoint of --checkpoint-every, never to what a signal saved. So there is always one, if need
// be of what the run begins with.
void RunSaver::settle_rewind_step(const RunProgress& progress) {
  std::int64_t found = -1;
  world_.agree([&] {
    if (!world_.is_root()) return;
    for (const std::filesystem::path& file : list_checkpoints(start_.folder->path())) {
      const std::int64_t step = step_of_checkpoint(file.filename().string()).value_or(-1);
      if (step <= progress.step && step % checkpoint_every_ == 0) found = step;
    }
    if (found < 0 && std::filesystem::exists(checkpoint_of(progress.step))) found = progress.step;
  });
  found = world_.all_gather(found).front();
  rewind_step_ = found >= 0 ? found : progress.step;
  if (found < 0) insist(progress, pauses_at_end(), [&] { return try_to_save(progress); });
}

void RunSaver::went_back() {
  last_saved_step_ = *rewind_step_;
  saved_here_ = published_ = true;
  retry_.succeeded();
}

RunSaver::Failure RunSaver::try_to_save(const RunProgress& progress) {
  const auto start = Clock::now();
  Failure failure = write_and_publish(progress);
  if (failure) {
    retry_.failed(seconds_since(begun_));
    return failure;
  }
  if (retry_.is_pending()) report_.saved_again(last_checkpoint(), retry_.num_failures());
  retry_.succeeded();
  time_limit_.note_save(seconds_since(start));
  return std::nullopt;
}

RunSaver::Failure RunSaver::write_and_publish(const RunProgress& progress) {
  if (progress.step != last_saved_step_) {
    check_weights_are_finite(progress);
    Failure failure = write_file(checkpoint_name(progress.step), progress, progress.best_accuracy);
    if (failure) return failure;
    last_saved_step_ = progress.step;
    saved_here_ = true;
    if (rewind_step_ && is_planned(progress)) rewind_step_ = progress.step;
  }
  Failure failure = failure_of([&] {
    world_.agree([&] {
      if (world_.is_root())
        start_.folder->publish(progress.step, config_.keep_checkpoints, rewind_step_);
    });
  });
  published_ = !failure;
  return failure;
}

void RunSaver::insist(const RunProgress& progress, const Pauses& pauses,
                      const std::function<Failure()>& write) {
  for (const std::chrono::seconds pause : pauses) {
    const Failure failure = write();
    if (!failure) return;
    go_on_without(progress, *failure, fmt::format("trying again in {} s", pause.count()));
    for (std::int64_t second = 0; second < pause.count(); ++second) {
      const ActivityScope at({.what = "waits before it tries again to save"});
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }
  if (const Failure failure = write()) throw Error(*failure);
}

RunSaver::Failure RunSaver::write_metrics() {
  return failure_of([&] { world_.agree([&] { report_.require_metrics(); }); });
}

void RunSaver::go_on_without(const RunProgress& progress, const Error& failure,
                             const std::string& what_now) {
  if (config_.on_save_error == "stop") throw Error(failure);
  report_.save_failed(progress, failure.what(), what_now);
}

// What the ranks have not agreed on ends the run.
RunSaver::Failure RunSaver::failure_of(const std::function<void()>& write) const {
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

RunSaver::Failure RunSaver::try_to_keep_if_best(const RunProgress& progress,
                                                const Evaluation& test) {
  if (test.accuracy <= best_in_file_) return std::nullopt;
  check_weights_are_finite(progress);
  Failure failure = write_file("best.h5", progress, test.accuracy);
  if (!failure) best_in_file_ = test.accuracy;
  return failure;
}

RunSaver::Failure RunSaver::write_file(const std::string& name, const RunProgress& progress,
                                       double best_accuracy) {
  const ActivityScope at({.what = "saves", .step = progress.step});
  const TraceScope traced(session_.network().trace(), TraceAction::checkpoint);
  world_.agree([&] {
    if (world_.is_root()) start_.folder->check_held();
  });
  RunProgress in_file = progress;
  in_file.best_accuracy = best_accuracy;
  require_equal_replicas(session_.network());
  CheckpointContents contents = session_.contents(in_file);
  return failure_of([&] {
    write_together(session_.grid(), std::filesystem::path(config_.output) / name,
                   std::move(contents));
  });
}

void RunSaver::check_weights_are_finite(const RunProgress& progress) {
  if (const std::optional<std::string> array = session_.non_finite_array())
    throw NonFiniteError(
        {.what = "the weights are not finite",
         .event = fmt::format("after step {}, {} is not finite: the run has diverged",
                              progress.step, *array),
         .advice = divergence_advice,
         .step = progress.step},
        last_checkpoint_in_words());
}

std::string RunSaver::checkpoint_of(std::int64_t step) const {
  return (std::filesystem::path(config_.output) / checkpoint_name(step)).string();
}

std::string RunSaver::last_checkpoint() const {
  return saved_here_ ? checkpoint_of(last_saved_step_) : start_.file;
}

std::string RunSaver::last_checkpoint_in_words() const {
  return last_saved_step_ < 0 ? "no checkpoint had been written yet"
                              : fmt::format("the last checkpoint is {}", last_checkpoint());
}

}  // namespace revode
