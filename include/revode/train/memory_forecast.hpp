// How much memory a rank will need, from shapes alone: known before anything is made.
#pragma once

#include <vector>

#include "revode/comm/communicator.hpp"
#include "revode/config/run_plan.hpp"
#include "revode/pipeline/program.hpp"

namespace revode {

/// Bytes of a rank by their use (Memory), for a step, or for the evaluation where the command only
/// evaluates; doubles: what is asked for may exceed any integer. Not known before a backend is
/// there: its workspace, and kernels and recordings in its layout, which are counted as
/// RunPlan::kernel_copies says and as the cpu backend keeps them (`cuda` takes half of that where
/// one launch goes through a whole segment).
struct MemoryForecast {
  double weights = 0;
  double gradients = 0;  ///< where the command needs them
  double momentum = 0;   ///< likewise
  double packed_weights = 0;
  double snapshot = 0;  ///< of weights and momentum, where the command saves
  double state =
      0;  ///< slots of states and adjoints, being computed in, sent and received; scratch
  double stash = 0;  ///< of all micro-batches in flight, recordings included

  /// Parameters and what belongs to them.
  double of_parameters() const {
    return weights + gradients + momentum + packed_weights + snapshot;
  }
  double of_states() const { return state + stash; }
  double total() const { return of_parameters() + of_states(); }
};
/// Of each time rank, in the replica that has most micro-batches.
std::vector<MemoryForecast> forecast_memory(const RunPlan& plan, int largest_micro_batch);
/// The same where the programs of a step are known.
std::vector<MemoryForecast> forecast_memory(const RunPlan& plan,
                                            const std::vector<Program>& programs,
                                            int largest_micro_batch);

/// Collective. Throws an input error that all ranks share where the ranks of a host need more than
/// it has, data that has been read included; says how much for what, and what would need less.
void check_memory(const MemoryForecast& mine, const Communicator& communicator);

}  // namespace revode
