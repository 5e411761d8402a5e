// A schedule for tests: forward in ascending order, back in an order that is none.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "revode/pipeline/schedule.hpp"

namespace revode {

inline const ScheduleRule shuffled_schedule{
    .name = "shuffled",
    .plays_several_slices = true,
    .make = [](int rank, const Placement& placement, int num_micro_batches) {
      WorkOrder order = schedule_rule("gpipe").make(rank, placement, num_micro_batches);
      // Micro-batch m goes back where (m * step + shift) % M would: a permutation, as step and M
      // have no common divisor.
      int step = num_micro_batches / 2 + 1;
      while (std::gcd(step, num_micro_batches) != 1) ++step;
      for (Work& work : order)
        if (work.sweep == Sweep::backward)
          work.micro_batch = (work.micro_batch * step + num_micro_batches / 3) % num_micro_batches;
      return order;
    }};

}  // namespace revode
