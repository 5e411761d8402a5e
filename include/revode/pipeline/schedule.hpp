// The order of work of each rank, as pure data: which slice takes which micro-batch through,
// forward or back, and when. Messages follow from it and from the placement: see program.hpp.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "revode/pipeline/placement.hpp"

namespace revode {

enum class Sweep { forward, backward };

/// One micro-batch through one slice.
struct Work {
  Sweep sweep;
  int slice;
  int micro_batch;
  auto operator<=>(const Work&) const = default;
};
/// Of one rank.
using WorkOrder = std::vector<Work>;

/// Each slice takes each micro-batch forward once, then back once; in any order, since sums over
/// micro-batches do not depend on it.
struct ScheduleRule {
  std::string_view name;
  bool plays_several_slices;  ///< a rank
  WorkOrder (*make)(int rank, const Placement& placement, int num_micro_batches);
};

/// Names that --schedule takes.
std::vector<std::string> schedule_names();
/// Throws an input error for an unknown name.
const ScheduleRule& schedule_rule(std::string_view name);

/// Sizes of the groups of micro-batches that go round the ranks together where a rank has several
/// slices: a group passes through a rank's first slice, then through its next. At least as many as
/// there are ranks, so that the first comes round when the last has left; they differ by at most
/// one, larger first.
std::vector<int> micro_batch_groups(int num_ranks, int num_micro_batches);

/// The forward sweep alone, for evaluation; and the backward sweep, the last slice first.
WorkOrder forward_order(int rank, const Placement& placement, int num_micro_batches);
WorkOrder backward_order(int rank, const Placement& placement, int num_micro_batches);

/// Micro-batches that a slice holds at the most between forward and back.
int most_in_flight(const WorkOrder& order, int slice);

}  // namespace revode
