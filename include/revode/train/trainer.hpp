// The training loop: epochs, steps, evaluation, checkpoints. What is computed with is the
// session's, what is told of it the report's.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "revode/core/error.hpp"
#include "revode/run/hang_watch.hpp"
#include "revode/run/time_limit.hpp"
#include "revode/train/evaluation.hpp"
#include "revode/train/run_report.hpp"
#include "revode/train/run_saver.hpp"
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
  ExitStatus train();
  bool finished() const { return progress_.step >= last_step_; }
  bool goes_back() const { return session_.plan().on_nonfinite == OnNonFinite::rewind; }
  StepReport step();
  void skip_update(const MiniBatchSource& source, const StepReport& report,
                   const std::string& when);
  void rewind(const NonFinite& found);
  Evaluation evaluate_test();
  void finish_epoch();
  void finish();

  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::optional<HangWatch> hang_watch_;  // unless --hang-timeout is 0
  TimeLimit time_limit_;
  const Communicator& world_;
  StartPoint start_;
  Session session_;
  const Config& config_;
  RatePolicy rate_policy_;
  RunProgress progress_;
  std::int64_t steps_per_epoch_;
  std::int64_t last_step_;  // where the run ends
  int num_skip_notes_ = 0;
  RunReport report_;
  RunSaver saver_;
  std::optional<TraceFile> trace_file_;  // where --trace asks for it
  bool out_of_time_ = false;             // on the root: asked to stop by the limit
  std::optional<Evaluation> last_evaluation_;
  std::int64_t last_evaluation_step_ = -1;
};

}  // namespace revode
