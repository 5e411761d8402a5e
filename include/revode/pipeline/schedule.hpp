// The ordered work of each rank, as pure data: no messages are sent here and no clock runs. The
// executor plays it; a test replays it and proves that every receive has its send and that nothing
// waits for ever.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace revode {

enum class Operation {
  receive_state,    ///< (P, Q) from the rank before
  forward,          ///< through this rank's slice
  send_state,       ///< to the rank behind
  receive_adjoint,  ///< (P, Q) and both adjoints, from the rank behind
  backward,         ///< back through the slice
  send_adjoint,     ///< to the rank before
};
std::string_view to_string(Operation operation);

struct Instruction {
  Operation operation;
  int micro_batch;
  bool operator==(const Instruction&) const = default;
};
using Program = std::vector<Instruction>;

/// Micro-batches may go backward in any order: sums over them do not depend on it.
struct ScheduleRule {
  std::string_view name;
  Program (*make)(int rank, int num_ranks, int num_micro_batches);
  /// Idle share of a rank's step when all slices cost the same.
  double (*bubble)(int num_ranks, int num_micro_batches);
  /// Micro-batches whose transition inputs (and, on the last rank, end states) a rank holds at the
  /// most.
  int (*most_in_flight)(int rank, int num_ranks, int num_micro_batches);
};

/// Names that --schedule takes.
std::vector<std::string> schedule_names();
/// Throws an input error for an unknown name.
const ScheduleRule& schedule_rule(std::string_view name);

/// The forward sweep alone, for evaluation.
Program forward_program(int rank, int num_ranks, int num_micro_batches);

/// Buffers of each direction that a rank with neighbours has: one being received into, one computed
/// in, one being sent.
inline constexpr int num_message_buffers = 3;

}  // namespace revode
