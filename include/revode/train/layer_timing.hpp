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
/// rank: one block of each stage and the ends are played a few times, and the least counts.
LayerCosts time_layers(const RunPlan& plan, Backend<float>& backend, int batch);

/// The same on all ranks at once, as in a step. What all agree on: by time rank where some are
/// slower than others, else one for all (medians). Collective.
std::vector<LayerCosts> agree_on_costs(const RunPlan& plan, const LayerCosts& mine,
                                       const Grid& grid);

}  // namespace revode
