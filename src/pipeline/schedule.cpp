#include "revode/pipeline/schedule.hpp"

#include <algorithm>

#include <fmt/ranges.h>

#include "revode/core/error.hpp"
#include "revode/pipeline/partition.hpp"

#include "pipeline/schedules.hpp"

namespace revode {
namespace {

constexpr const ScheduleRule* rules[] = {
    &schedules::gpipe,
    &schedules::one_forward_one_backward,
    &schedules::interleaved,
};

}  // namespace

std::vector<std::string> schedule_names() {
  std::vector<std::string> names;
  for (const ScheduleRule* rule : rules) names.emplace_back(rule->name);
  return names;
}

const ScheduleRule& schedule_rule(std::string_view name) {
  for (const ScheduleRule* rule : rules)
    if (rule->name == name) return *rule;
  throw input_error("--schedule: found '{}', expected one of {}", name,
                    fmt::join(schedule_names(), ", "));
}

std::vector<int> micro_batch_groups(int num_ranks, int num_micro_batches) {
  return cut_evenly(num_micro_batches, std::max(num_micro_batches / num_ranks, 1));
}

namespace {

/// sweep of all micro-batches on a rank: group after group, in each `slices` in their order.
WorkOrder grouped_order(Sweep sweep, const std::vector<int>& slices, int num_ranks,
                        int num_micro_batches) {
  WorkOrder order;
  int first = 0;
  for (const int size : micro_batch_groups(num_ranks, num_micro_batches)) {
    for (const int slice : slices)
      for (int m = first; m < first + size; ++m) order.push_back({sweep, slice, m});
    first += size;
  }
  return order;
}

}  // namespace

WorkOrder forward_order(int rank, const Placement& placement, int num_micro_batches) {
  return grouped_order(Sweep::forward, placement.slices_of(rank), placement.num_ranks(),
                       num_micro_batches);
}

WorkOrder backward_order(int rank, const Placement& placement, int num_micro_batches) {
  std::vector<int> slices = placement.slices_of(rank);
  std::ranges::reverse(slices);
  return grouped_order(Sweep::backward, slices, placement.num_ranks(), num_micro_batches);
}

int most_in_flight(const WorkOrder& order, int slice) {
  int now = 0, most = 0;
  for (const Work& work : order) {
    if (work.slice != slice) continue;
    now += work.sweep == Sweep::forward ? 1 : -1;
    most = std::max(most, now);
  }
  return most;
}

}  // namespace revode
