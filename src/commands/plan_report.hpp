// What is told of planned jobs, to people and as JSON.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "revode/train/job_plan.hpp"

namespace revode {

/// A page: the network, grid, schedule, step, epoch, run, and a table of the time ranks.
std::string job_text(const JobPlan& job);
nlohmann::ordered_json job_json(const JobPlan& job);
/// A line a job.
std::string search_table(const std::vector<JobPlan>& jobs);

}  // namespace revode
