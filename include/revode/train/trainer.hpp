// The training loop: epochs, steps, evaluation, checkpoints. What is computed with is the
// session's, what is told of it the report's.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "revode/core/activity.hpp"
#include "revode/core/error.hpp"
#include "revode/run/hang_watch.hpp"
#include "revode/run/save_retry.hpp"
#include "revode/run/time_limit.hpp"
#include "revode/train/evaluation.hpp"
#include "revode/train/run_report.hpp"
#include "revode/train/session.hpp"
#include "revode/train/start_point.hpp"
#include "revode/train/trace_file.hpp"

namespace revode {

class Trainer {
 public:
  /// Collective. plan: made after choose_start().
  Trainer(const RunPlan& plan, StartPoint start, const Communicator& world);

  /// Trains to the end of --epochs or --steps, or until a signal or the time limit asks to stop
  /// (then saves and returns `stopped`).
  ExitStatus run();

 private:
  void open_folder();
  std::vector<std::string> prepare_folder(std::optional<std::int64_t> step,
                                          std::int64_t num_rewinds,
                                          const nlohmann::ordered_json& record);
  void settle_rewind_step();
  ExitStatus train();
  bool finished() const { return progress_.step >= last_step_; }
  bool goes_back() const { return session_.plan().on_nonfinite == OnNonFinite::rewind; }
  bool is_planned_save() const { return progress_.step % checkpoint_every_ == 0; }
  StepReport step();
  void skip_update(const MiniBatchSource& source, const StepReport& report,
                   const std::string& when);
  void rewind(const NonFinite& found);
  Evaluation evaluate_test();
  void finish_epoch();
  void finish();

  /// Collective. What kept all ranks from writing a file, with the last checkpoint that is there;
  /// nothing where it was written.
  using Failure = std::optional<Error>;
  Failure save();
  Failure write_and_publish();
  Failure keep_if_best(const Evaluation& test);
  Failure write_file(const std::string& name, double best_accuracy);
  /// write: collective; what it throws is shared by all ranks.
  Failure failure_of(const std::function<void()>& write) const;
  void require_metrics();

  /// Where the run goes on without the file: says so. Throws where it does not.
  void go_on_without(const Error& failure, const std::string& what_now);
  void save_or_go_on();
  bool retry_is_due();
  /// Where nothing comes after: tries again after each of `pauses`. Throws what kept the last try.
  void insist(const std::vector<std::chrono::seconds>& pauses,
              const std::function<Failure()>& write);

  std::optional<std::string> non_finite_weights();
  void check_weights_are_finite();
  std::string checkpoint_of(std::int64_t step) const;
  std::string last_checkpoint() const;
  std::string last_checkpoint_in_words() const;

  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  ActivityScope at_{{.what = "trains"}};  // all the time
  std::optional<HangWatch> hang_watch_;   // unless --hang-timeout is 0
  TimeLimit time_limit_;
  const Communicator& world_;
  StartPoint start_;
  Session session_;
  const Config& config_;
  RatePolicy rate_policy_;
  RunProgress progress_;
  std::int64_t steps_per_epoch_;
  std::int64_t last_step_;  // where the run ends
  std::int64_t checkpoint_every_;
  std::int64_t last_saved_step_ = -1;
  bool saved_here_ = false;  // by this process
  bool published_ = true;    // latest.h5 points to it
  SaveRetry retry_;
  std::optional<std::int64_t> rewind_step_;  // whose checkpoint a rewind goes back to
  int num_skip_notes_ = 0;
  RunReport report_;
  std::optional<TraceFile> trace_file_;  // where --trace asks for it
  bool out_of_time_ = false;             // on the root: asked to stop by the limit
  std::optional<Evaluation> last_evaluation_;
  std::int64_t last_evaluation_step_ = -1;
  double best_in_file_ = 0;  // accuracy that best.h5 has
};

}  // namespace revode
