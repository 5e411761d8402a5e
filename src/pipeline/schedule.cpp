#include "revode/pipeline/schedule.hpp"

#include <algorithm>

#include <fmt/ranges.h>

#include "revode/core/error.hpp"

#include "pipeline/schedules.hpp"

namespace revode {
namespace {

constexpr const ScheduleRule* rules[] = {
    &schedules::gpipe,
    &schedules::one_forward_one_backward,
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

// As many micro-batches as there are ranks pass through a rank's first slice, then through its next
// and so on: the first of them comes round just then.
WorkOrder forward_order(int rank, const Placement& placement, int num_micro_batches) {
  WorkOrder order;
  const int group_size = placement.num_ranks();
  for (int first = 0; first < num_micro_batches; first += group_size)
    for (const int slice : placement.slices_of(rank))
      for (int m = first; m < std::min(first + group_size, num_micro_batches); ++m)
        order.push_back({Sweep::forward, slice, m});
  return order;
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
