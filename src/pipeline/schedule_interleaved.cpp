// Interleaved 1F1B (Narayanan et al., arXiv 2104.04473, section 2.2): each rank owns several thin
// slices, r, r + T, r + 2T, ..., so that the pipeline fills and drains in a fraction of the time,
// for as many messages more. Micro-batches go through a rank's first slice in groups, then through
// its next, and so on; back in the same groups, the last slice first. With one slice a rank this is
// 1F1B.
#include <algorithm>
#include <stdexcept>

#include "pipeline/schedules.hpp"

namespace revode::schedules {
namespace {

// The last rank begins to go back when the first group reaches its last slice. Between its first
// forward sweep and the return of that group each rank before it has time for two more, one a step
// there and one a step back (with one slice a rank: for one, see 1F1B).
WorkOrder interleaved_order(int rank, const Placement& placement, int num_micro_batches) {
  const int num_ranks = placement.num_ranks();
  if (!placement.goes_round())
    throw std::logic_error("interleaved plays slices that go round the ranks");
  if (num_micro_batches == 0) return {};
  const WorkOrder forward = forward_order(rank, placement, num_micro_batches);
  const int slices_a_rank = static_cast<int>(placement.slices_of(rank).size());
  const int first_group = micro_batch_groups(num_ranks, num_micro_batches).front();
  const int ranks_after = num_ranks - 1 - rank;
  const int warm_up = std::min(
      (slices_a_rank - 1) * first_group + (slices_a_rank == 1 ? ranks_after : 2 * ranks_after),
      static_cast<int>(forward.size()));
  WorkOrder order(forward.begin(), forward.begin() + warm_up);
  auto next = forward.begin() + warm_up;
  for (const Work& work : backward_order(rank, placement, num_micro_batches)) {
    if (next != forward.end()) order.push_back(*next++);
    order.push_back(work);
  }
  return order;
}

}  // namespace

const ScheduleRule interleaved{
    .name = "interleaved", .plays_several_slices = true, .make = interleaved_order};

}  // namespace revode::schedules
