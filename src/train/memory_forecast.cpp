#include "revode/train/memory_forecast.hpp"

#include <algorithm>
#include <functional>
#include <vector>

#include "revode/core/buffer.hpp"
#include "revode/core/error.hpp"
#include "revode/core/host_memory.hpp"
#include "revode/files/host.hpp"
#include "revode/model/parameters.hpp"
#include "revode/run/run_log.hpp"

namespace revode {
namespace {

/// Couplings of the stage that lie in the slice.
int couplings_in(const Architecture& architecture, int stage, BlockRange slice) {
  int first_block = 0;
  for (int k = 0; k < stage; ++k) first_block += architecture.stages()[k].blocks;
  const int begin = std::max(first_block, slice.first);
  const int end = std::min(first_block + architecture.stages()[stage].blocks, slice.last);
  return std::max(end - begin, 0) * architecture.rule().couplings_per_block;
}

/// In float arrays of the parameters' size.
double weight_arrays(const RunPlan& plan) {
  // The parameters themselves, and copies of them in the kernels' layout. Gradients are summed in
  // 64 bits.
  return 1.0 + plan.kernel_copies + (plan.use != NetworkUse::evaluation ? 2 : 0) +
         (plan.use == NetworkUse::training ? 1 : 0);
}

}  // namespace

double stash_bytes(const Architecture& architecture, BlockRange slice, int micro_batch) {
  double elements = 0;
  if (slice.first == 0)
    elements += architecture.image_channels() *
                static_cast<double>(architecture.stages().front().plane_size());
  int end_of_stage = 0;
  for (const Stage& stage : architecture.stages()) {
    end_of_stage += stage.blocks;
    // What a transition or the closing takes in.
    if (slice.first < end_of_stage && end_of_stage <= slice.last)
      elements += 2.0 * stage.channels * static_cast<double>(stage.plane_size());
  }
  return elements * micro_batch * sizeof(float);
}

namespace {

MemoryForecast forecast_slice(const RunPlan& plan, BlockRange slice, int largest_micro_batch) {
  const Architecture& architecture = plan.architecture;
  const double parameters = static_cast<double>(ParameterMap(architecture, slice).size());
  MemoryForecast forecast;
  forecast.weights = weight_arrays(plan) * parameters * sizeof(float);

  double largest_state = 0, stored = 0;
  for (int k = 0; k < static_cast<int>(architecture.stages().size()); ++k) {
    const int couplings = couplings_in(architecture, k, slice);
    if (couplings == 0) continue;
    const Stage& stage = architecture.stages()[k];
    // P and Q of a micro-batch.
    const double state =
        2.0 * stage.channels * static_cast<double>(stage.plane_size()) * largest_micro_batch;
    largest_state = std::max(largest_state, state);
    stored += couplings * state;
  }
  // Slots: one in use, one being sent, one being received; the ends of the network do without one
  // of these, a network on one rank without two.
  const bool first = slice.first == 0, last = slice.last == architecture.num_blocks();
  const int slots = first && last ? 1 : first || last ? 2 : 3;
  // One state forward; backward a state and its adjoint.
  const bool goes_back = plan.use != NetworkUse::evaluation;
  forecast.states =
      (goes_back ? 3 * std::min(slots, plan.num_micro_batches) : 1) * largest_state * sizeof(float);
  if (plan.activations == Activations::store) forecast.states += stored * sizeof(float);
  return forecast;
}

}  // namespace

MemoryForecast forecast_memory(const RunPlan& plan, int rank, int largest_micro_batch) {
  MemoryForecast forecast;
  const WorkOrder order = plan.schedule->make(
      rank, plan.placement, (plan.num_micro_batches + plan.data_ranks - 1) / plan.data_ranks);
  for (const int slice : plan.placement.slices_of(rank)) {
    const BlockRange range = plan.slices[slice];
    forecast += forecast_slice(plan, range, largest_micro_batch);
    if (plan.use != NetworkUse::evaluation)
      forecast.states +=
          most_in_flight(order, slice) * stash_bytes(plan.architecture, range, largest_micro_batch);
  }
  return forecast;
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
                   format_bytes(mine.weights), format_bytes(mine.states), format_bytes(data));
  });
}

}  // namespace revode
