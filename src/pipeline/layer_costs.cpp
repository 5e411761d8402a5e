#include "revode/pipeline/layer_costs.hpp"

namespace revode {
namespace {

/// Of the convolutions of a reversible step a quarter is forward; the ends are much the same.
SweepCost a_quarter_forward(std::int64_t cost) { return {cost / 4, cost - cost / 4}; }

int first_block_of(const Architecture& architecture, int stage) {
  int block = 0;
  for (int k = 0; k < stage; ++k) block += architecture.stages()[k].blocks;
  return block;
}

}  // namespace

LayerCosts uniform_costs(const Architecture& architecture) {
  const std::size_t num_stages = architecture.stages().size();
  return {.opening = {},
          .closing = {},
          .blocks = std::vector<SweepCost>(num_stages, a_quarter_forward(4)),
          .transitions = std::vector<SweepCost>(num_stages - 1),
          .visits = std::vector<SweepCost>(num_stages)};
}

LayerCosts multiply_adds(const Architecture& architecture) {
  LayerCosts costs = uniform_costs(architecture);
  costs.opening = a_quarter_forward(architecture.opening_cost());
  costs.closing = a_quarter_forward(architecture.closing_cost());
  for (int k = 0; k < static_cast<int>(costs.blocks.size()); ++k)
    costs.blocks[k] = a_quarter_forward(architecture.block_cost(first_block_of(architecture, k)));
  return costs;
}

SweepCost block_cost(const Architecture& architecture, const LayerCosts& costs, int block) {
  const int stage = architecture.stage_of_block(block);
  const int first = first_block_of(architecture, stage);
  SweepCost cost = costs.blocks[stage];
  if (block == first) cost += costs.visits[stage];
  const bool ends_stage = block + 1 == first + architecture.stages()[stage].blocks;
  if (ends_stage && stage < static_cast<int>(costs.transitions.size()))
    cost += costs.transitions[stage];
  return cost;
}

SweepCost entry_cost(const Architecture& architecture, const LayerCosts& costs, int block) {
  const int stage = architecture.stage_of_block(block);
  return block == first_block_of(architecture, stage) ? SweepCost{} : costs.visits[stage];
}

SweepCost slice_cost(const Architecture& architecture, const LayerCosts& costs, BlockRange range) {
  SweepCost cost = entry_cost(architecture, costs, range.first);
  for (int block = range.first; block < range.last; ++block)
    cost += block_cost(architecture, costs, block);
  if (range.first == 0) cost += costs.opening;
  if (range.last == architecture.num_blocks()) cost += costs.closing;
  return cost;
}

std::int64_t state_size(const Architecture& architecture, int block) {
  const Stage& stage = architecture.stages()[architecture.stage_of_block(block)];
  return std::int64_t{2} * stage.channels * static_cast<std::int64_t>(stage.plane_size());
}

}  // namespace revode
