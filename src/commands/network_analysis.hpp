// What revode analyze finds out of one network at the states that some images have in it: JSON, so
// that ranks can hand each other what they found. Knows nothing of ranks.
#pragma once

#include <memory>
#include <vector>

#include <nlohmann/json.hpp>

#include "revode/analysis/depth_jacobians.hpp"
#include "revode/analysis/depth_record.hpp"
#include "revode/train/training_step.hpp"

#include "commands/stored_model.hpp"

namespace revode {

/// One training sweep of all samples of the plan as one micro-batch, and what passed in it.
class RecordedSweep {
 public:
  /// plan: of one rank, and of one micro-batch. like: another sweep of the same samples, or null.
  RecordedSweep(const RunPlan& plan, const Grid& alone, const RecordedSweep* like = nullptr);

  Network& network() const { return *network_; }
  const Architecture& architecture() const { return network_->architecture(); }
  const DepthRecord& record() const { return record_; }
  const StepReport& report() const { return report_; }
  int num_images() const { return record_.batch(); }
  /// This rank's only share: the whole network.
  Share<float>& share() const { return *network_->shares().front(); }

 private:
  ChosenSamples samples_;
  std::unique_ptr<Network> network_;
  DepthRecord record_;
  StepReport report_;
};

class NetworkAnalysis {
 public:
  /// num_eigenvalues: of each block and image; 0: all.
  NetworkAnalysis(const RecordedSweep& sweep, int num_eigenvalues);

  /// What takes long comes in tasks, which can be done in any order, and by several ranks: the
  /// spectra of the blocks, then how much a run of blocks of one stage magnifies.
  int num_tasks() const { return static_cast<int>(tasks_.size()); }
  nlohmann::ordered_json do_task(int task);
  /// An object for each block, with what the tasks (in their order) found of it, and one for each
  /// run of blocks. without_grid: null where the network has no grid.
  nlohmann::ordered_json finish(const std::vector<nlohmann::ordered_json>& done,
                                const RecordedSweep* without_grid);

 private:
  struct Task {
    int stage = 0;
    BlockRange blocks;
    bool is_growth = false;
  };
  ForceDerivatives& forces(int stage);
  nlohmann::ordered_json spectrum_of(int block);
  nlohmann::ordered_json growth_of(const Task& task);
  void add_states(int block, nlohmann::ordered_json& out) const;
  void add_weights(int block, nlohmann::ordered_json& out) const;
  void add_growth_of_random_perturbation(nlohmann::ordered_json& blocks);
  BlockEdge behind(int block) const;

  const RecordedSweep& sweep_;
  int num_eigenvalues_;
  std::vector<Task> tasks_;
  int stage_of_forces_ = -1;
  std::unique_ptr<ForceDerivatives> forces_;  ///< of one stage at a time
};

}  // namespace revode
