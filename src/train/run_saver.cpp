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
#include "revode/core/units.hpp"
#include "revode/train/replicas.hpp"

namespace revode {
namespace {

using Clock = std::chrono::steady_clock;

using Pauses = std::vector<std::chrono::seconds>;

constexpr const char* best_name = "best.h5";

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
  CheckpointContents contents = session.contents(session.start_progress());
  keep_rows_of_first_replica(session.grid(), contents);
  snapshot_.reserve(contents);
}

RunSaver::~RunSaver() = default;

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
  if (!retry_.is_pending() || is_writing()) return false;
  double due = retry_.is_due(seconds_since(begun_)) ? 1 : 0;  // by one clock
  world_.broadcast(std::span<double>(&due, 1), 0);
  return due > 0;
}

void RunSaver::save(const RunProgress& progress) {
  if (const Failure failure = begin_checkpoint(progress))
    do_without(checkpoint_name(progress.step), progress, *failure);
}

void RunSaver::attend(const RunProgress& progress) {
  while (is_writing()) {
    const std::vector<std::int64_t> idle =
        world_.all_gather(std::int64_t{writing_.front().write->is_idle()});
    if (std::ranges::min(idle) == 0) return;
    const std::string name = writing_.front().name;
    if (const Failure failure = go_on_with_first()) do_without(name, progress, *failure);
  }
}

void RunSaver::settle(const RunProgress& progress) {
  while (is_writing()) {
    const std::string name = writing_.front().name;
    if (const Failure failure = go_on_with_first()) do_without(name, progress, *failure);
  }
}

RunSaver::Failure RunSaver::save_now(const RunProgress& progress) {
  if (snapshot_step_ != progress.step) settle(progress);
  if (progress.step == last_saved_step_) return published_ ? Failure() : publish();
  const std::string name = checkpoint_name(progress.step);
  const bool has_begun =
      std::ranges::any_of(writing_, [&](const Writing& file) { return file.name == name; });
  Failure failure = has_begun ? Failure() : begin_checkpoint(progress);
  if (!failure) failure = wait_for(name, progress);
  if (failure) retry_.failed(seconds_since(begun_));
  return failure;
}

void RunSaver::save_at_stop(const RunProgress& progress) {
  insist(progress, pauses_at_stop(), [&] { return save_now(progress); });
}

void RunSaver::write_metrics_at_stop(const RunProgress& progress) {
  insist(progress, pauses_at_stop(), [&] { return write_metrics(); });
}

void RunSaver::save_at_end(const RunProgress& progress, const Evaluation& test) {
  insist(progress, pauses_at_end(), [&] { return save_now(progress); });
  insist(progress, pauses_at_end(), [&] {
    Failure failure = begin_best(progress, test);
    return failure ? failure : wait_for(best_name, progress);
  });
  report_.end_record(progress, test);
  insist(progress, pauses_at_end(), [&] { return write_metrics(); });
}

void RunSaver::keep_if_best(const RunProgress& progress, const Evaluation& test) {
  if (test.accuracy <= best_in_file_) return;
  settle(progress);  // of a better one, perhaps
  if (const Failure failure = begin_best(progress, test)) do_without(best_name, progress, *failure);
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
  if (found < 0) insist(progress, pauses_at_end(), [&] { return save_now(progress); });
}

void RunSaver::went_back() {
  snapshot_step_.reset();
  last_saved_step_ = *rewind_step_;
  saved_here_ = published_ = true;
  retry_.succeeded();
}

// Nothing is written where the file is there, and latest.h5 alone could not be pointed to it.
RunSaver::Failure RunSaver::begin_checkpoint(const RunProgress& progress) {
  if (progress.step == last_saved_step_) return publish();
  check_weights_are_finite(progress);
  return begin(checkpoint_name(progress.step), progress, progress.best_accuracy);
}

RunSaver::Failure RunSaver::begin_best(const RunProgress& progress, const Evaluation& test) {
  if (test.accuracy <= best_in_file_) return std::nullopt;
  check_weights_are_finite(progress);
  return begin(best_name, progress, test.accuracy);
}

// Files of one step share its snapshot; of another, it is needed as long as they are written.
RunSaver::Failure RunSaver::begin(const std::string& name, const RunProgress& progress,
                                  double best_accuracy) {
  if (snapshot_step_ != progress.step) settle(progress);
  const auto start = Clock::now();
  const ActivityScope at({.what = "saves", .step = progress.step});
  const TraceScope traced(session_.network().trace(), TraceAction::checkpoint);
  world_.agree([&] {
    if (world_.is_root()) start_.folder->check_held();
  });
  Writing file{.name = name, .progress = progress, .begin_seconds = 0, .write = nullptr};
  file.progress.best_accuracy = best_accuracy;
  CheckpointContents contents = session_.contents(file.progress);
  keep_rows_of_first_replica(session_.grid(), contents);
  if (snapshot_step_ != progress.step) {
    require_equal_replicas(session_.network());
    snapshot_.take(contents);
    snapshot_step_ = progress.step;
  }
  snapshot_.point(contents);
  Failure failure = failure_of([&] {
    file.write = std::make_unique<CheckpointWrite>(std::filesystem::path(config_.output) / name,
                                                   contents, world_.handle());
  });
  if (failure) return failure;
  file.begin_seconds = seconds_since(start);
  writing_.push_back(std::move(file));
  return std::nullopt;
}

RunSaver::Failure RunSaver::go_on_with_first() {
  const ActivityScope at({.what = "saves", .step = writing_.front().progress.step});
  TraceRecorder* trace = session_.network().trace();
  const TraceScope traced(trace, TraceAction::checkpoint);
  bool is_in_place = false;
  const Failure failure = failure_of([&] { is_in_place = writing_.front().write->advance(); });
  if (!failure && !is_in_place) return std::nullopt;
  const Writing file = std::move(writing_.front());
  writing_.pop_front();
  if (trace != nullptr)
    for (const auto& [begin, end] : file.write->times_at_work())
      trace->add({.action = TraceAction::write, .begin = begin, .end = end});
  return failure ? failure : written(file);
}

RunSaver::Failure RunSaver::written(const Writing& file) {
  if (file.name == best_name) {
    best_in_file_ = file.progress.best_accuracy;
    return std::nullopt;
  }
  last_saved_step_ = file.progress.step;
  saved_here_ = true;
  if (rewind_step_ && is_planned(file.progress)) rewind_step_ = file.progress.step;
  double seconds = 0;
  for (const auto& [begin, end] : file.write->times_at_work())
    seconds += std::chrono::duration<double>(end - begin).count();
  const std::vector<double> of_ranks = world_.all_gather(std::span<const double>(&seconds, 1));
  time_limit_.note_save(file.begin_seconds + std::ranges::max(of_ranks));
  return publish();
}

RunSaver::Failure RunSaver::publish() {
  Failure failure = failure_of([&] {
    world_.agree([&] {
      if (world_.is_root())
        start_.folder->publish(last_saved_step_, config_.keep_checkpoints, rewind_step_);
    });
  });
  published_ = !failure;
  if (failure) return failure;
  if (retry_.is_pending()) report_.saved_again(last_checkpoint(), retry_.num_failures());
  retry_.succeeded();
  return std::nullopt;
}

RunSaver::Failure RunSaver::wait_for(const std::string& name, const RunProgress& progress) {
  while (is_writing()) {
    const std::string first = writing_.front().name;
    Failure failure = go_on_with_first();
    if (failure && first == name) return failure;
    if (failure) do_without(first, progress, *failure);
  }
  return std::nullopt;
}

// Told once: a disk may be full for hours.
void RunSaver::do_without(const std::string& name, const RunProgress& progress,
                          const Error& failure) {
  if (name == best_name) {
    go_on_without(progress, failure,
                  "training goes on, and best.h5 stays as it is until a better one");
    return;
  }
  retry_.failed(seconds_since(begun_));
  go_on_without(progress, failure,
                retry_.num_failures() > 1
                    ? ""
                    : "training goes on; tried again after 10 s, then less often, and "
                      "at the next checkpoint");
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
  if (const Failure failure = write()) give_up(*failure);
}

RunSaver::Failure RunSaver::write_metrics() {
  return failure_of([&] { world_.agree([&] { report_.require_metrics(); }); });
}

void RunSaver::go_on_without(const RunProgress& progress, const Error& failure,
                             const std::string& what_now) {
  if (config_.on_save_error == "stop") give_up(failure);
  report_.save_failed(progress, fmt::format("{}; {}", failure.what(), last_checkpoint_in_words()),
                      what_now);
}

// What else is being written may be the last checkpoint.
void RunSaver::give_up(const Error& failure) {
  while (is_writing()) go_on_with_first();
  throw Error(ExitStatus::failure,
              fmt::format("{}; {}", failure.what(), last_checkpoint_in_words()),
              ErrorScope::all_ranks);
}

// What the ranks have not agreed on ends the run.
RunSaver::Failure RunSaver::failure_of(const std::function<void()>& write) const {
  try {
    write();
  } catch (const Error& error) {
    if (error.scope() != ErrorScope::all_ranks) throw;
    return error;
  }
  return std::nullopt;
}

void RunSaver::check_weights_are_finite(const RunProgress& progress) {
  const std::optional<std::string> array = session_.non_finite_array();
  if (!array) return;
  settle(progress);
  throw NonFiniteError(
      {.what = "the weights are not finite",
       .event = fmt::format("after step {}, {} is not finite: the run has diverged", progress.step,
                            *array),
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
