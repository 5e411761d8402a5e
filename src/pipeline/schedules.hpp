// The registered schedules and what they are made of. Private to the pipeline module.
#pragma once

#include "revode/pipeline/schedule.hpp"

namespace revode::schedules {

extern const ScheduleRule gpipe;
extern const ScheduleRule one_forward_one_backward;

/// receive_state, forward, send_state of one micro-batch, as far as the rank has neighbours.
void add_forward(Program& program, int rank, int num_ranks, int micro_batch);
/// receive_adjoint, backward, send_adjoint, likewise.
void add_backward(Program& program, int rank, int num_ranks, int micro_batch);

/// (T - 1) / (M + T - 1): the pipeline fills and drains once a step.
double fill_and_drain_bubble(int num_ranks, int num_micro_batches);

}  // namespace revode::schedules
