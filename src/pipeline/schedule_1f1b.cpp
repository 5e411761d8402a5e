// 1F1B (PipeDream-flush; Narayanan et al., arXiv 2104.04473): as many forward sweeps as there are
// slices from this one to the last, then one backward sweep for each forward sweep, then the
// backward sweeps that are left. The bubble is GPipe's, but no more micro-batches are in flight on
// a rank than there are slices from its own to the last.
#include <algorithm>
#include <stdexcept>

#include "pipeline/schedules.hpp"

namespace revode::schedules {
namespace {

WorkOrder alternating_order(int rank, const Placement& placement, int num_micro_batches) {
  if (placement.slices_of(rank).size() != 1) throw std::logic_error("1f1b plays one slice a rank");
  const int slice = placement.slices_of(rank).front();
  const int warm_up = std::min(placement.num_slices() - 1 - slice, num_micro_batches);
  WorkOrder order;
  for (int m = 0; m < warm_up; ++m) order.push_back({Sweep::forward, slice, m});
  for (int m = warm_up; m < num_micro_batches; ++m) {
    order.push_back({Sweep::forward, slice, m});
    order.push_back({Sweep::backward, slice, m - warm_up});
  }
  for (int m = num_micro_batches - warm_up; m < num_micro_batches; ++m)
    order.push_back({Sweep::backward, slice, m});
  return order;
}

}  // namespace

const ScheduleRule one_forward_one_backward{
    .name = "1f1b", .plays_several_slices = false, .make = alternating_order};

}  // namespace revode::schedules
