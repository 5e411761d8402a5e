// What the layers of a network take on the ranks of this run: measured, in milliseconds of its
// start.
#pragma once

#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/comm/grid.hpp"
#include "revode/config/run_plan.hpp"
#include "revode/pipeline/layer_costs.hpp"

namespace revode {

/// Nanoseconds of a micro-batch of `batch` images through the layers of the plan's network on this
/// rank: some blocks of each stage and the ends are played a few times, in one slice and in slices
/// of a block, and the median counts.
LayerCosts time_layers(const RunPlan& plan, Backend<float>& backend, int batch);

/// What the costs say of messages, in nanoseconds: neighbours in time, or replicas where there is
/// one time rank alone, exchange states of `batch` images, all at once, and read what they
/// received; for the latency they exchange single values in turns. Collective.
void time_messages(const RunPlan& plan, const Grid& grid, int batch, LayerCosts& costs);

/// What all ranks agree on from what each has measured: by time rank where some are slower than
/// others, else one for all (medians). Collective.
std::vector<LayerCosts> agree_on_costs(const RunPlan& plan, const LayerCosts& mine,
                                       const Grid& grid);

}  // namespace revode
