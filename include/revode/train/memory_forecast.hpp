// How much memory a rank will need, from shapes alone: known before anything is made.
#pragma once

#include "revode/comm/communicator.hpp"
#include "revode/config/run_plan.hpp"

namespace revode {

/// Bytes that a rank needs at the least (doubles: what is asked for may exceed any integer).
struct MemoryForecast {
  double weights = 0;  ///< parameters, their gradients and momentum as the command needs them, and
                       ///< kernels as the backend keeps them
  double states = 0;   ///< states and adjoints being computed and sent, and stored activations
  double total() const { return weights + states; }
  MemoryForecast& operator+=(const MemoryForecast& more) {
    weights += more.weights;
    states += more.states;
    return *this;
  }
};
/// Of a time rank, for its slices.
MemoryForecast forecast_memory(const RunPlan& plan, int rank, int largest_micro_batch);
/// Bytes that a slice keeps of a micro-batch from the forward to the backward sweep, recordings
/// (Activations::store) not included: TimeSlice::stash_bytes.
double stash_bytes(const Architecture& architecture, BlockRange slice, int micro_batch);

/// Collective. Throws an input error that all ranks share where the ranks of a host need more than
/// it has, data that has been read included; says how much for what, and what would need less.
void check_memory(const MemoryForecast& mine, const Communicator& communicator);

}  // namespace revode
