// GPipe (Huang et al., arXiv 1811.06965): the whole forward sweep, then the whole backward sweep.
#include "pipeline/schedules.hpp"

namespace revode::schedules {
namespace {

Program make(int rank, int num_ranks, int num_micro_batches) {
  Program program = forward_program(rank, num_ranks, num_micro_batches);
  for (int m = 0; m < num_micro_batches; ++m) add_backward(program, rank, num_ranks, m);
  return program;
}

}  // namespace

const ScheduleRule gpipe{
    .name = "gpipe",
    .make = make,
    .bubble = fill_and_drain_bubble,
    .most_in_flight = [](int, int, int num_micro_batches) { return num_micro_batches; },
};

}  // namespace revode::schedules
