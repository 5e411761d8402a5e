// What training computes with: data, network, training step, and the weights to start from. All of
// it follows from a plan and a checkpoint, so it can be thrown away and made again. Knows nothing
// of how long a run is, of its folder, or of what is told of it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "revode/train/data_feed.hpp"
#include "revode/train/model_file.hpp"
#include "revode/train/start_point.hpp"
#include "revode/train/training_step.hpp"

namespace revode {

struct CheckpointContents;

class Session {
 public:
  /// Collective; throws errors that all ranks share. Nothing as large as the network is made before
  /// data and checkpoint are known to fit.
  Session(const RunPlan& plan, const StartPoint& start, const Communicator& world);

  const RunPlan& plan() const { return network_.plan(); }
  const Config& config() const { return plan().config; }
  const Grid& grid() const { return grid_; }
  Network& network() { return network_; }
  TrainingStep& training() { return training_; }
  const DataFeed& train_data() const { return train_data_; }
  const DataFeed& test_data() const { return test_data_; }
  std::int64_t steps_per_epoch() const { return train_data_.size() / config().batch_size; }
  /// Where the run stood in the checkpoint that is resumed, else its beginning.
  const RunProgress& start_progress() const { return start_progress_; }

  /// The images of a step; to be used before the next one is asked for. rewound_to: as in
  /// RunProgress; from each of these steps on the images that are left come in another order.
  MiniBatchSource mini_batch(std::int64_t epoch, std::int64_t step_in_epoch,
                             std::span<const std::int64_t> rewound_to = {});

  /// Reads weights and momentum of a checkpoint of this run; returns where the run stood in it.
  /// Collective; the file is held against its checksums.
  RunProgress go_back(const std::string& file);

  /// Weights and momentum as they are, for a checkpoint of a run that stands at `progress`. Throws
  /// an error that all ranks share where they have changed since the last update. Collective.
  CheckpointContents contents(const RunProgress& progress);
  /// The first of this rank's arrays, momentum included, in which a value is not finite.
  std::optional<std::string> first_non_finite() const;
  /// Collective. The same of the lowest rank that has one, and which rank that is, in words.
  std::optional<std::string> non_finite_array() const;

 private:
  void require_intact_weights(const RunProgress& progress);
  void load(const StartPoint& start);
  void load_training(const CheckpointReader& reader, const std::string& file,
                     RunProgress& progress);
  void check_training_data(const CheckpointReader& reader, const std::string& file,
                           const RunProgress& progress) const;

  Grid grid_;
  DataFeed train_data_, test_data_;
  Network network_;
  TrainingStep training_;
  std::string train_digest_;
  RunProgress start_progress_;
  std::vector<std::int64_t> order_;  // of the epoch
  std::int64_t order_epoch_ = -1;
  std::size_t order_rewinds_ = 0;  // that it has seen
};

}  // namespace revode
