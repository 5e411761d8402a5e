// What each rank does step by step: its work with the messages between, and the buffers that takes.
// Pure data; the executor plays it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "revode/pipeline/placement.hpp"
#include "revode/pipeline/schedule.hpp"

namespace revode {

enum class Operation {
  receive,  ///< what enters the slice: (P, Q); going back (P, Q) and both adjoints
  compute,  ///< through the slice
  send,     ///< what leaves it
};

struct Instruction {
  Operation operation;
  Work work;  ///< of this rank
  bool operator==(const Instruction&) const = default;
};
/// "send of micro-batch 3 backward from slice 1".
std::string to_string(const Instruction& instruction);

/// The buffers of one direction that serve one sender. A message is received into a slot, computed
/// in and sent from it; messages of one sender come in its order.
struct SlotPool {
  Sweep sweep;
  int sender;                  ///< the rank; own_rank where a sweep begins
  std::vector<Work> expected;  ///< whose input arrives, in the order in which it is sent
  int num_slots;

  static constexpr int own_rank = -1;
};

struct Program {
  std::vector<Instruction> instructions;
  std::vector<SlotPool> pools;
};

/// The slice whose output enters `work.slice`, and the one that its own output enters; -1 where the
/// sweep begins or ends.
int slice_before(const Work& work, const Placement& placement);
int slice_after(const Work& work, const Placement& placement);

/// The programs of all ranks for their orders of work: a message wherever neighbouring slices lie
/// on different ranks. Pools have the slots that let messages move while kernels work: one in use,
/// one being sent, one being received, and those that arrive before their turn. See make_programs()
/// for whether that is enough.
std::vector<Program> lower(const std::vector<WorkOrder>& orders, const Placement& placement);

}  // namespace revode
