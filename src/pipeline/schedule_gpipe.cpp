// GPipe (Huang et al., arXiv 1811.06965): the whole forward sweep, then the whole backward sweep.
#include "pipeline/schedules.hpp"

namespace revode::schedules {
namespace {

WorkOrder gpipe_order(int rank, const Placement& placement, int num_micro_batches) {
  WorkOrder order = forward_order(rank, placement, num_micro_batches);
  const WorkOrder backward = backward_order(rank, placement, num_micro_batches);
  order.insert(order.end(), backward.begin(), backward.end());
  return order;
}

}  // namespace

const ScheduleRule gpipe{.name = "gpipe", .plays_several_slices = true, .make = gpipe_order};

}  // namespace revode::schedules
