// GPipe (Huang et al., arXiv 1811.06965): the whole forward sweep, then the whole backward sweep.
#include "pipeline/schedules.hpp"

namespace revode::schedules {
namespace {

// Back as forward, the slices in the opposite order.
WorkOrder make(int rank, const Placement& placement, int num_micro_batches) {
  WorkOrder order = forward_order(rank, placement, num_micro_batches);
  const int last = placement.num_slices() - 1;
  std::vector<int> mirrored;
  for (int slice = last; slice >= 0; --slice) mirrored.push_back(placement.rank_of(slice));
  for (const Work& work : forward_order(rank, Placement(mirrored), num_micro_batches))
    order.push_back({Sweep::backward, last - work.slice, work.micro_batch});
  return order;
}

}  // namespace

const ScheduleRule gpipe{.name = "gpipe", .make = make};

}  // namespace revode::schedules
