// What is decided once costs are known: where the depth is cut, which schedule is played, and how
// many slices each rank has. Results do not depend on any of it.
#pragma once

#include <string>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/comm/grid.hpp"
#include "revode/config/run_plan.hpp"
#include "revode/pipeline/program.hpp"
#include "revode/pipeline/simulation.hpp"

namespace revode {

/// What each slice of the plan costs its rank, in the unit of plan.costs.
std::vector<SweepCost> slice_costs(const RunPlan& plan);
/// What the time ranks do in a step: of the replica that has most micro-batches, or of one that has
/// so many.
std::vector<Program> step_programs(const RunPlan& plan);
std::vector<Program> step_programs(const RunPlan& plan, int num_micro_batches);
/// That step of the plan with its costs. Messages keep their ranks busy, as they do where ranks
/// copy them; a network that works apart from the ranks takes less. In the unit of plan.costs.
SimulationResult simulate_step(const RunPlan& plan, const std::vector<Program>& programs,
                               OnWork on_work = {});

/// The plan with the cut, schedule and slices that are best by its costs: the least time of a
/// simulated step; finer slices must save at least 2% of it, as they take more messages; of equal
/// schedules the one that needs least memory. Of several slices a rank some cuts are tried. What
/// the plan does not leave open stays. Throws an input error where nothing fits into the plan's
/// memory limit.
RunPlan choose_schedule(RunPlan plan, int largest_micro_batch);

/// The plan with these costs, in nanoseconds, and with what is best by them where it leaves
/// something open; else it is held against its memory limit.
RunPlan settle(RunPlan plan, std::vector<LayerCosts> costs, int largest_micro_batch);

/// The same with costs from --machine or measured now, where the plan leaves something
/// open and there is more than one time rank. Where nothing is open, --machine and --machine-file
/// still give the plan its costs, and the plan is held against its memory limit. Collective; all
/// ranks choose alike.
RunPlan settle(RunPlan plan, Backend<float>& backend, const Grid& grid, int largest_micro_batch);

}  // namespace revode
