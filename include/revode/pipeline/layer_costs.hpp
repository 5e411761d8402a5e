// What layers cost, forward and back: multiply-adds that are counted, or nanoseconds that were
// measured. Cuts, simulations and tables ask here. Pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "revode/model/architecture.hpp"

namespace revode {

/// In one unit throughout, which is the maker's.
struct SweepCost {
  std::int64_t forward = 0;
  std::int64_t back = 0;

  std::int64_t total() const { return forward + back; }
  SweepCost& operator+=(const SweepCost& more) {
    forward += more.forward;
    back += more.back;
    return *this;
  }
};

struct LayerCosts {
  SweepCost opening, closing;
  std::vector<SweepCost> blocks;       ///< of one block, by stage
  std::vector<SweepCost> transitions;  ///< behind a stage, by stage; none behind the last
  std::vector<SweepCost> visits;       ///< of a slice's blocks of one stage, however many; by stage
  double message_value = 0;            ///< a rank's for each value that it sends or receives
  double copied_value = 0;             ///< the same where MPI copies, as between hosts
  double message_latency = 0;          ///< of any message within a node; ranks only wait for it
};

/// Every block costs the same, the rest nothing.
LayerCosts uniform_costs(const Architecture& architecture);
/// Multiply-adds of one image; transitions and visits have none.
LayerCosts multiply_adds(const Architecture& architecture);

/// A block, with the visit where it begins a stage, and with the transition where it ends one: the
/// slice that ends a stage does that, as what it sends is then half as large.
SweepCost block_cost(const Architecture& architecture, const LayerCosts& costs, int block);
/// What a slice that begins with this block takes beside its blocks: a visit, unless the block
/// begins a stage.
SweepCost entry_cost(const Architecture& architecture, const LayerCosts& costs, int block);
/// Opening and closing included, messages not.
SweepCost slice_cost(const Architecture& architecture, const LayerCosts& costs, BlockRange range);
/// Values of the state of one image in front of `block`: what a message holds where the network is
/// cut there. A state goes forward, a state and its adjoint come back.
std::int64_t state_size(const Architecture& architecture, int block);

}  // namespace revode
