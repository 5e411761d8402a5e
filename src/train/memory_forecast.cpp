#include "revode/train/memory_forecast.hpp"

#include <algorithm>
#include <functional>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/backend/exact_sum.hpp"
#include "revode/core/buffer.hpp"
#include "revode/core/digest.hpp"
#include "revode/core/error.hpp"
#include "revode/core/host_memory.hpp"
#include "revode/files/host.hpp"
#include "revode/model/parameters.hpp"
#include "revode/model/slice_sizes.hpp"
#include "revode/pipeline/simulation.hpp"
#include "revode/run/run_log.hpp"

namespace revode {
namespace {

/// Behind each state or adjoint of a slot.
constexpr double digest_bytes = digest_floats * sizeof(float);

/// Micro-batches of an evaluation, whose number follows from data: with any more a rank has no more
/// slots.
constexpr int evaluated_a_time_rank = 4;

/// Couplings of the stage that lie in the slice.
int couplings_in(const Architecture& architecture, int stage, BlockRange slice) {
  int first_block = 0;
  for (int k = 0; k < stage; ++k) first_block += architecture.stages()[k].blocks;
  const int begin = std::max(first_block, slice.first);
  const int end = std::min(first_block + architecture.stages()[stage].blocks, slice.last);
  return std::max(end - begin, 0) * architecture.rule().couplings_per_block;
}

double recording_bytes(const Architecture& architecture, BlockRange slice, int micro_batch) {
  double bytes = 0;
  for (int k = 0; k < static_cast<int>(architecture.stages().size()); ++k)
    if (const int couplings = couplings_in(architecture, k, slice); couplings > 0)
      bytes += static_cast<double>(
          cpu_recording_bytes(architecture.segment(k, 0, couplings), micro_batch));
  return bytes;
}

bool goes_back(const RunPlan& plan) { return plan.use != NetworkUse::evaluation; }

bool saves(const RunPlan& plan) {
  return plan.use == NetworkUse::training && plan.config.command != Command::bench;
}

/// Of the arrays that a checkpoint has of these parameters.
double saved_bytes(const ParameterMap& map) {
  std::size_t values = 0;
  for (const ParameterEntry* entry : map.entries())
    values += (entry->trainable ? 2 : 1) * entry->size();
  return static_cast<double>(values * sizeof(float));
}

WorkOrder order_of(const Program& program) {
  WorkOrder order;
  for (const auto& [operation, work] : program.instructions)
    if (operation == Operation::compute) order.push_back(work);
  return order;
}

MemoryForecast forecast_rank(const RunPlan& plan, int rank, const Program& program,
                             int largest_micro_batch) {
  const double an_element = double{1} * largest_micro_batch * sizeof(float);  // of all images
  const WorkOrder order = order_of(program);
  MemoryForecast forecast;
  std::size_t message = 0, adjoint = 0;  // what slots have room for
  for (const int slice : plan.placement.slices_of(rank)) {
    const BlockRange range = plan.slices[slice];
    const ParameterMap map(plan.architecture, range);
    const auto parameters = static_cast<double>(map.size());
    forecast.weights += parameters * sizeof(float);
    if (goes_back(plan)) forecast.gradients += parameters * sizeof(ExactSum);
    if (plan.use == NetworkUse::training) forecast.momentum += parameters * sizeof(float);
    if (saves(plan)) forecast.snapshot += saved_bytes(map);
    forecast.packed_weights += plan.kernel_copies * parameters * sizeof(float);

    const SliceSizes sizes = slice_sizes(plan.architecture, range);
    message = std::max(message, sizes.message);
    adjoint = std::max(adjoint, sizes.adjoint);
    double kept = static_cast<double>(sizes.stash) * an_element;
    int in_flight = 1;
    if (goes_back(plan)) {
      forecast.state += static_cast<double>(sizes.scratch) * an_element;
      in_flight = most_in_flight(order, slice);
      if (plan.activations == Activations::store)
        kept += recording_bytes(plan.architecture, range, largest_micro_batch);
    }
    forecast.stash += in_flight * kept;
  }
  for (const SlotPool& pool : program.pools) {
    const std::size_t slot = message + (pool.sweep == Sweep::backward ? adjoint : 0);
    forecast.state += pool.num_slots * static_cast<double>(slot) * an_element;
    const int num_digests =
        (message > 0 ? 1 : 0) + (pool.sweep == Sweep::backward && adjoint > 0 ? 1 : 0);
    forecast.state += static_cast<double>(pool.num_slots) * num_digests * digest_bytes;
  }
  return forecast;
}

}  // namespace

std::vector<MemoryForecast> forecast_memory(const RunPlan& plan,
                                            const std::vector<Program>& programs,
                                            int largest_micro_batch) {
  std::vector<MemoryForecast> ranks;
  for (int rank = 0; rank < plan.placement.num_ranks(); ++rank)
    ranks.push_back(forecast_rank(plan, rank, programs[rank], largest_micro_batch));
  return ranks;
}

std::vector<MemoryForecast> forecast_memory(const RunPlan& plan, int largest_micro_batch) {
  return forecast_memory(
      plan,
      goes_back(plan)
          ? make_programs(*plan.schedule, plan.placement, plan.micro_batches_of_a_replica())
          : make_forward_programs(plan.placement,
                                  evaluated_a_time_rank * plan.placement.num_ranks()),
      largest_micro_batch);
}

void check_memory(const MemoryForecast& mine, const Communicator& communicator) {
  const MemoryUse use = memory_use();
  const double data = static_cast<double>(use.current(Memory::data));
  const double here =
      static_cast<double>(std::hash<std::string>()(host_name()) >> 12);  // exact in a double
  const std::vector<double> all =
      communicator.all_gather(std::vector<double>{here, mine.total() + data});
  double needed = 0;
  for (std::size_t i = 0; i < all.size(); i += 2) needed += all[i] == here ? all[i + 1] : 0;
  const auto present = static_cast<double>(host_memory_bytes());
  communicator.agree([&] {
    REVODE_REQUIRE(present == 0 || needed <= present,
                   "this needs at least {} of memory on {}, which has {}; a rank there needs {} "
                   "for weights and what "
                   "belongs to them, {} for states, {} for data: smaller --widths, a smaller "
                   "--batch-size, more "
                   "--micro-batches or more hosts need less",
                   format_bytes(needed), host_name(), format_bytes(present),
                   format_bytes(mine.of_parameters()), format_bytes(mine.of_states()),
                   format_bytes(data));
  });
}

}  // namespace revode
