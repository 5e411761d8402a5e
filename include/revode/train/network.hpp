// A network spread over the ranks, ready to be swept: what every command that computes needs, put
// together from the plan.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/comm/grid.hpp"
#include "revode/config/run_plan.hpp"
#include "revode/core/buffer.hpp"
#include "revode/core/phase_timer.hpp"
#include "revode/core/trace.hpp"
#include "revode/data/dataset.hpp"
#include "revode/model/architecture.hpp"
#include "revode/model/share.hpp"
#include "revode/pipeline/pipeline.hpp"

namespace revode {

/// Of the options that every rank has, for its ranks. Collective; throws errors that all share.
RunPlan make_plan(const Config& config, const Communicator& world);
/// The grid that the plan asks for, neighbours in time on one host where that can be. Collective.
Grid make_grid(const RunPlan& plan, const Communicator& world);

class Network {
 public:
  /// Collective: agrees on what the ranks of a host may use. Initial weights from the plan's seed.
  /// The grid must outlive the network.
  Network(RunPlan plan, const Grid& grid, int largest_micro_batch);
  /// On a backend other than the one that the plan names.
  Network(RunPlan plan, const Grid& grid, int largest_micro_batch,
          std::unique_ptr<Backend<float>> backend);

  const RunPlan& plan() const { return plan_; }
  const Architecture& architecture() const { return plan_.architecture; }
  const Placement& placement() const { return plan_.placement; }
  /// The blocks of every slice.
  const std::vector<BlockRange>& slices() const { return plan_.slices; }
  Backend<float>& backend() { return *backend_; }
  /// For what has arrays in its memory and may outlive the network.
  std::shared_ptr<Backend<float>> shared_backend() { return backend_; }
  /// What this rank owns, in the order of the slices.
  const std::vector<std::unique_ptr<Share<float>>>& shares() const { return shares_; }
  /// Hands the weights of all shares to the backend; to be called after each change.
  void load_weights();
  /// Of this rank; null where it is another's.
  Share<float>* first_share() const;
  Share<float>* last_share() const;
  Pipeline& pipeline() { return *pipeline_; }
  const Grid& grid() const { return grid_; }
  /// Measures phases from now on; see phase_timer().
  void time_phases();
  /// Sums of this rank's seconds by phase; null unless time_phases() was called.
  PhaseTimer* phase_timer() { return phase_timer_ ? &*phase_timer_ : nullptr; }

  /// Notes from now on what this rank does in the last `num_steps` steps; see trace().
  void trace_steps(int num_steps);
  /// Null unless trace_steps() was called.
  TraceRecorder* trace() { return trace_ ? &*trace_ : nullptr; }

  int num_threads() const { return num_threads_; }
  int largest_micro_batch() const { return largest_micro_batch_; }

  /// What images are normalised by, which is kept with the weights; on the reader.
  ChannelStatistics input_statistics() const;
  void set_input_statistics(const ChannelStatistics& statistics);

 private:
  RunPlan plan_;
  const Grid& grid_;
  int largest_micro_batch_;
  int num_threads_;
  std::shared_ptr<Backend<float>> backend_;
  std::vector<std::unique_ptr<Share<float>>> shares_;
  std::unique_ptr<Pipeline> pipeline_;
  std::optional<PhaseTimer> phase_timer_;
  std::optional<TraceRecorder> trace_;
};

}  // namespace revode
