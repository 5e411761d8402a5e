// What a whole run would take: its steps, and the evaluations and saves between them.
#pragma once

#include <cstdint>

#include "revode/train/job_plan.hpp"

namespace revode {

struct RunForecast {
  std::int64_t steps_an_epoch = 0;  ///< over the published training images
  std::int64_t steps = 0;
  double step_seconds = 0;
  std::int64_t num_evaluations = 0;
  double evaluation_seconds = 0;  ///< one, of the published test images
  std::int64_t num_saves = 0;
  std::int64_t checkpoint_bytes = 0;
  /// That a save stops training for: weights and momentum are copied; 0 where nothing says how long
  /// copying takes.
  double save_seconds = 0;
  /// Until it is on the disk, written behind the next steps; 0 where the machine file does not say.
  double write_seconds = 0;
  std::int64_t steps_between_saves = 0;

  double seconds() const;
};

/// By the options of the job's plan. Reading the images comes on top.
RunForecast forecast_run(const JobPlan& job);

}  // namespace revode
