// The training loop: epochs, steps, evaluation, checkpoints, reports. Everything it does with
// numbers is in training_step.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "revode/core/error.hpp"
#include "revode/train/data_feed.hpp"
#include "revode/train/evaluation.hpp"
#include "revode/train/model_file.hpp"
#include "revode/train/report.hpp"
#include "revode/train/run_log.hpp"
#include "revode/train/start_point.hpp"
#include "revode/train/time_limit.hpp"
#include "revode/train/training_step.hpp"

namespace revode {

class Trainer {
 public:
  /// Collective. plan: made after choose_start().
  Trainer(RunPlan plan, StartPoint start, const Communicator& communicator);

  /// Trains to the end of --epochs or --steps, or until a signal or the time limit asks to stop
  /// (then saves and returns `stopped`).
  ExitStatus run();

 private:
  struct Timing {
    double step_seconds = 0;  // since the last report
    double waiting_seconds = 0;
    std::int64_t images = 0;
    double total_seconds = 0;  // of all steps of this process
    std::int64_t total_images = 0;
  };

  void load();
  void check_training_data(const CheckpointReader& reader) const;
  void open_folder();
  bool finished() const;
  StepReport step();
  void report_step(const StepReport& report);
  void finish_epoch();
  void keep_if_best(const Evaluation& test);
  void write_file(const std::string& name, double best_accuracy);
  void check_weights_are_finite();
  void save();
  Evaluation evaluate_test();
  double seconds_left() const;
  std::string last_checkpoint() const;
  std::string last_checkpoint_in_words() const;
  void finish();
  void print_summary(const Evaluation& test, const MemoryReport& memory);
  double images_per_second() const;

  const Communicator& communicator_;
  RunPlan plan_;
  const Config& config_ = plan_.config;
  StartPoint start_;
  DataFeed train_data_, test_data_;
  Network network_;
  TrainingStep training_;
  RatePolicy rate_policy_;
  RunProgress progress_;
  std::string train_digest_;
  std::int64_t steps_per_epoch_ = 0;
  std::int64_t first_step_ = 0;  // done before this process began
  std::int64_t last_step_ = 0;   // where the run ends
  std::int64_t checkpoint_every_ = 0;
  std::int64_t last_saved_step_ = -1;
  std::vector<std::int64_t> order_;  // of the epoch
  std::int64_t order_epoch_ = -1;
  RunLog log_;
  std::chrono::steady_clock::time_point last_line_{};
  Timing timing_;
  std::optional<Evaluation> last_evaluation_;
  std::int64_t last_evaluation_step_ = -1;
  double best_in_file_ = 0;  // accuracy that best.h5 has
  bool warned_of_range_ = false;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  TimeLimit time_limit_;
  bool out_of_time_ = false;  // on the root: asked to stop by the limit
};

}  // namespace revode
