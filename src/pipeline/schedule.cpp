#include "revode/pipeline/schedule.hpp"

#include <array>

#include <fmt/ranges.h>

#include "revode/core/error.hpp"

#include "pipeline/schedules.hpp"

namespace revode {
namespace {

constexpr const ScheduleRule* rules[] = {
    &schedules::gpipe,
    &schedules::one_forward_one_backward,
};

}  // namespace

std::string_view to_string(Operation operation) {
  constexpr std::array<std::string_view, 6> names{"receive state",   "forward",  "send state",
                                                  "receive adjoint", "backward", "send adjoint"};
  return names[static_cast<int>(operation)];
}

std::vector<std::string> schedule_names() {
  std::vector<std::string> names;
  for (const ScheduleRule* rule : rules) names.emplace_back(rule->name);
  return names;
}

const ScheduleRule& schedule_rule(std::string_view name) {
  for (const ScheduleRule* rule : rules)
    if (rule->name == name) return *rule;
  throw input_error("--schedule: found '{}', expected one of {}", name,
                    fmt::join(schedule_names(), ", "));
}

Program forward_program(int rank, int num_ranks, int num_micro_batches) {
  Program program;
  for (int m = 0; m < num_micro_batches; ++m) schedules::add_forward(program, rank, num_ranks, m);
  return program;
}

namespace schedules {

void add_forward(Program& program, int rank, int num_ranks, int micro_batch) {
  if (rank > 0) program.push_back({Operation::receive_state, micro_batch});
  program.push_back({Operation::forward, micro_batch});
  if (rank + 1 < num_ranks) program.push_back({Operation::send_state, micro_batch});
}

void add_backward(Program& program, int rank, int num_ranks, int micro_batch) {
  if (rank + 1 < num_ranks) program.push_back({Operation::receive_adjoint, micro_batch});
  program.push_back({Operation::backward, micro_batch});
  if (rank > 0) program.push_back({Operation::send_adjoint, micro_batch});
}

double fill_and_drain_bubble(int num_ranks, int num_micro_batches) {
  return static_cast<double>(num_ranks - 1) / (num_micro_batches + num_ranks - 1);
}

}  // namespace schedules
}  // namespace revode
