// 1F1B (PipeDream-flush; Narayanan et al., arXiv 2104.04473): as many forward sweeps as there are
// ranks behind, then one backward sweep for each forward sweep, then the backward sweeps that are
// left. The bubble is GPipe's, but no more micro-batches are in flight on a rank than there are
// ranks from it to the last.
#include <algorithm>

#include "pipeline/schedules.hpp"

namespace revode::schedules {
namespace {

Program make(int rank, int num_ranks, int num_micro_batches) {
  const int warm_up = std::min(num_ranks - 1 - rank, num_micro_batches);
  Program program;
  for (int m = 0; m < warm_up; ++m) add_forward(program, rank, num_ranks, m);
  for (int m = warm_up; m < num_micro_batches; ++m) {
    add_forward(program, rank, num_ranks, m);
    add_backward(program, rank, num_ranks, m - warm_up);
  }
  for (int m = num_micro_batches - warm_up; m < num_micro_batches; ++m)
    add_backward(program, rank, num_ranks, m);
  return program;
}

}  // namespace

const ScheduleRule one_forward_one_backward{
    .name = "1f1b",
    .make = make,
    .bubble = fill_and_drain_bubble,
    .most_in_flight =
        [](int rank, int num_ranks, int num_micro_batches) {
          return std::min(num_ranks - rank, num_micro_batches);
        },
};

}  // namespace revode::schedules
