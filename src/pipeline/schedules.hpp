// The registered schedules. Private to the pipeline module.
#pragma once

#include "revode/pipeline/schedule.hpp"

namespace revode::schedules {

extern const ScheduleRule gpipe;
extern const ScheduleRule one_forward_one_backward;
extern const ScheduleRule interleaved;

}  // namespace revode::schedules
