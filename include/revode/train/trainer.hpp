// The training loop: epochs, steps, evaluation, checkpoints, reports. Everything it does with
// numbers is in training_step.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "revode/core/error.hpp"
#include "revode/io/metrics.hpp"
#include "revode/io/run_log.hpp"
#include "revode/train/data_feed.hpp"
#include "revode/train/evaluation.hpp"
#include "revode/train/model_file.hpp"
#include "revode/train/time_limit.hpp"
#include "revode/train/training_step.hpp"

namespace revode {

/// Where a run starts: from initial weights, from a given model, or from where another run stood.
struct StartPoint {
  enum class Kind { fresh, weights, resume };
  Kind kind = Kind::fresh;
  std::string file;  ///< checkpoint to read, unless fresh
};

/// Follows --resume and --checkpoint: finds the file (`--resume auto`: the newest complete
/// checkpoint of the output folder; says which damaged ones it passed over), and fills the options
/// that were not given from its config. Also settles the output folder. Collective; throws errors
/// that all ranks share.
StartPoint choose_start(Config& config, const Communicator& communicator);

/// Renames the folder's checkpoints of steps beyond `step` (a run that goes on from before them
/// leaves them behind, and --resume auto must not take them for its own) and points latest.h5 to
/// what is left. Returns a line for people, empty where there were none. One process calls it.
std::string set_aside_later_checkpoints(const std::filesystem::path& folder, std::int64_t step);

class Trainer {
 public:
  /// Collective. config: after choose_start().
  Trainer(const Config& config, const StartPoint& start, const Communicator& communicator);

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

  void load(const StartPoint& start);
  void open_output();
  bool finished() const;
  StepReport step();
  void report_step(const StepReport& report);
  void finish_epoch();
  void write_file(const std::filesystem::path& file);
  void save();
  Evaluation evaluate_test();
  double seconds_left() const;
  void finish(ExitStatus status);

  const Communicator& communicator_;
  Config config_;
  StartPoint start_;
  Network network_;
  TrainingStep training_;
  DataFeed train_data_, test_data_;
  RatePolicy rate_policy_;
  RunProgress progress_;
  std::int64_t steps_per_epoch_ = 0;
  std::int64_t last_step_ = 0;  // where the run ends
  std::int64_t checkpoint_every_ = 0;
  std::int64_t last_saved_step_ = -1;
  std::vector<std::int64_t> order_;  // of the epoch
  std::int64_t order_epoch_ = -1;
  std::filesystem::path output_;
  MetricsFile metrics_;
  RunLog log_;
  Timing timing_;
  std::optional<Evaluation> last_evaluation_;
  std::int64_t last_evaluation_step_ = -1;
  bool warned_of_range_ = false;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  TimeLimit time_limit_;
  bool out_of_time_ = false;  // on the root: asked to stop by the limit
};

/// From now on SIGTERM, SIGINT and SIGUSR1 ask the training loop to save and stop; a second one
/// ends the process at once.
void catch_stop_signals();

}  // namespace revode
