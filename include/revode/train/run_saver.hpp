// What a run leaves behind while it trains: checkpoints, best.h5 and the lines of metrics.jsonl;
// what is done where one of them can't be written (--on-save-error); and which checkpoint a rewind
// goes back to. Checkpoints are written behind the steps that follow, from a snapshot. All of it is
// collective.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "revode/core/error.hpp"
#include "revode/run/save_retry.hpp"
#include "revode/run/time_limit.hpp"
#include "revode/train/evaluation.hpp"
#include "revode/train/run_report.hpp"
#include "revode/train/session.hpp"
#include "revode/train/snapshot.hpp"
#include "revode/train/start_point.hpp"

namespace revode {

class CheckpointWrite;

class RunSaver {
 public:
  /// All must outlive it. time_limit: is told how long saves take.
  RunSaver(Session& session, StartPoint& start, RunReport& report, TimeLimit& time_limit);
  ~RunSaver();

  /// See RunFolder::prepare(). record: of the start from there. Returns what was set aside.
  std::vector<std::string> prepare(const RunProgress& progress, std::optional<std::int64_t> step,
                                   std::int64_t num_rewinds, const nlohmann::ordered_json& record);

  /// After --checkpoint-every steps.
  bool is_planned(const RunProgress& progress) const {
    return progress.step % checkpoint_every_ == 0;
  }
  /// Planned, or to be tried again after a failure.
  bool is_due(const RunProgress& progress);
  /// Begins a save; attend() sees to the rest. Throws where a file can't be written, and the run
  /// does not outlive that. Weights must be finite: throws NonFiniteError.
  void save(const RunProgress& progress);
  /// Looks after the files that are being written, without waiting for them; to be called after
  /// each step. Throws as save() does.
  void attend(const RunProgress& progress);
  /// The same, and waits until none is.
  void settle(const RunProgress& progress);
  bool is_writing() const { return !writing_.empty(); }
  /// A save where nothing comes after: it has to succeed, after some tries.
  void save_at_stop(const RunProgress& progress);
  /// So have the lines of metrics.jsonl that are not written yet.
  void write_metrics_at_stop(const RunProgress& progress);
  void save_at_end(const RunProgress& progress, const Evaluation& test);

  /// best.h5 is the best of all that has been evaluated, the end of the run included. What a
  /// checkpoint says of the best accuracy are the epochs alone: a run that was stopped and went on
  /// says the same as one that was not.
  void keep_if_best(const RunProgress& progress, const Evaluation& test);
  /// Accuracy that best.h5 has, once it is written.
  double best_accuracy() const { return best_in_file_; }

  /// From now on there is a checkpoint to go back to.
  void settle_rewind_step(const RunProgress& progress);
  /// Nothing before settle_rewind_step().
  std::optional<std::int64_t> rewind_step() const { return rewind_step_; }
  /// The run stands at that checkpoint again.
  void went_back();

  std::string checkpoint_of(std::int64_t step) const;
  std::string last_checkpoint() const;
  std::string last_checkpoint_in_words() const;

 private:
  /// What kept all ranks from writing a file; nothing where it was written.
  using Failure = std::optional<Error>;
  using Pauses = std::vector<std::chrono::seconds>;

  /// A file that is being written.
  struct Writing {
    std::string name;
    RunProgress progress;  // as in the file
    double begin_seconds;  // that this took
    std::unique_ptr<CheckpointWrite> write;
  };

  Failure save_now(const RunProgress& progress);
  Failure begin_checkpoint(const RunProgress& progress);
  Failure begin_best(const RunProgress& progress, const Evaluation& test);
  Failure begin(const std::string& name, const RunProgress& progress, double best_accuracy);
  /// Waits for what the threads do for the first of writing_, which leaves them where that was all.
  Failure go_on_with_first();
  Failure written(const Writing& file);
  Failure publish();
  /// Waits for all files; what kept the one of this name from being written.
  Failure wait_for(const std::string& name, const RunProgress& progress);
  Failure write_metrics();
  /// Goes on without a file that could not be written behind training.
  void do_without(const std::string& name, const RunProgress& progress, const Error& failure);
  /// write: what it throws is shared by all ranks.
  Failure failure_of(const std::function<void()>& write) const;
  void check_weights_are_finite(const RunProgress& progress);

  /// Where the run goes on without the file: says so. Throws where it does not.
  void go_on_without(const RunProgress& progress, const Error& failure,
                     const std::string& what_now);
  /// Throws the failure, with the last checkpoint that is there.
  [[noreturn]] void give_up(const Error& failure);
  /// Tries again after each of `pauses`. Throws what kept the last try.
  void insist(const RunProgress& progress, const Pauses& pauses,
              const std::function<Failure()>& write);

  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  Session& session_;
  const Config& config_;
  const Communicator& world_;
  StartPoint& start_;
  RunReport& report_;
  TimeLimit& time_limit_;
  std::int64_t checkpoint_every_;
  Snapshot snapshot_;
  std::optional<std::int64_t> snapshot_step_;  // that it was taken at
  std::deque<Writing> writing_;                // all from the snapshot, which they use
  std::int64_t last_saved_step_ = -1;
  bool saved_here_ = false;  // by this process
  bool published_ = true;    // latest.h5 points to it
  SaveRetry retry_;
  std::optional<std::int64_t> rewind_step_;
  double best_in_file_ = 0;
};

}  // namespace revode
