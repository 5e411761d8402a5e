// Every schedule, replayed without MPI for 1 to 16 ranks and 1 to 32 micro-batches; and proof that
// the replay finds faults where there are some.
#include "revode/pipeline/schedule.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "pipeline/schedule_replay.hpp"
#include "support/error_text.hpp"

namespace revode {
namespace {

using Faults = std::vector<std::string>;
using Order = ScheduleReplay::Order;

std::vector<Program> programs_of(const ScheduleRule& rule, int num_ranks, int num_micro_batches) {
  std::vector<Program> programs;
  for (int rank = 0; rank < num_ranks; ++rank)
    programs.push_back(rule.make(rank, num_ranks, num_micro_batches));
  return programs;
}

std::vector<Program> forward_programs(int num_ranks, int num_micro_batches) {
  std::vector<Program> programs;
  for (int rank = 0; rank < num_ranks; ++rank)
    programs.push_back(forward_program(rank, num_ranks, num_micro_batches));
  return programs;
}

/// check(ranks, micro-batches) for every pair.
template <typename Check>
void for_each_size(Check&& check) {
  for (int num_ranks = 1; num_ranks <= 16; ++num_ranks) {
    for (int num_micro_batches = 1; num_micro_batches <= 32; ++num_micro_batches) {
      SCOPED_TRACE(fmt::format("{} ranks, {} micro-batches", num_ranks, num_micro_batches));
      check(num_ranks, num_micro_batches);
    }
  }
}

class Schedule : public testing::TestWithParam<std::string> {
 protected:
  const ScheduleRule& rule_ = schedule_rule(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Registered, Schedule, testing::ValuesIn(schedule_names()),
                         [](const auto& name) { return name.param; });

TEST_P(Schedule, EveryReceiveHasItsSendAndEveryMicroBatchItsSweeps) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    EXPECT_EQ(faults_of(programs_of(rule_, num_ranks, num_micro_batches), num_micro_batches, true),
              Faults{});
  });
}

TEST_P(Schedule, ReplayNeverDeadlocks) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    const std::vector<Program> programs = programs_of(rule_, num_ranks, num_micro_batches);
    EXPECT_EQ(ScheduleReplay(programs, Order::first_rank_first).faults(), Faults{});
    EXPECT_EQ(ScheduleReplay(programs, Order::last_rank_first).faults(), Faults{});
  });
}

TEST_P(Schedule, MicroBatchesInFlightReachTheirBoundAndNoMore) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    const ScheduleReplay replay(programs_of(rule_, num_ranks, num_micro_batches));
    for (int rank = 0; rank < num_ranks; ++rank)
      EXPECT_EQ(replay.most_in_flight(rank),
                rule_.most_in_flight(rank, num_ranks, num_micro_batches))
          << rank;
  });
}

TEST_P(Schedule, TheBubbleIsTheIdleShareOfEqualSlices) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    const ScheduleReplay replay(programs_of(rule_, num_ranks, num_micro_batches));
    for (int rank = 0; rank < num_ranks; ++rank)
      EXPECT_NEAR(replay.bubble(rank), rule_.bubble(num_ranks, num_micro_batches), 1e-12) << rank;
  });
}

TEST(ForwardProgram, IsSoundForEverySize) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    const std::vector<Program> programs = forward_programs(num_ranks, num_micro_batches);
    EXPECT_EQ(faults_of(programs, num_micro_batches, false), Faults{});
    EXPECT_EQ(ScheduleReplay(programs).faults(), Faults{});
  });
}

TEST(OneForwardOneBackward, HoldsNoMoreThanTheRanksToTheEnd) {
  const ScheduleRule& rule = schedule_rule("1f1b");

  EXPECT_EQ(rule.most_in_flight(0, 4, 32), 4);
  EXPECT_EQ(rule.most_in_flight(3, 4, 32), 1);
  EXPECT_EQ(schedule_rule("gpipe").most_in_flight(3, 4, 32), 32);
}

TEST(Bubble, HandNumbers) {
  EXPECT_DOUBLE_EQ(schedule_rule("gpipe").bubble(1, 4), 0);
  EXPECT_DOUBLE_EQ(schedule_rule("gpipe").bubble(4, 1), 0.75);
  EXPECT_DOUBLE_EQ(schedule_rule("1f1b").bubble(4, 9), 0.25);
}

// Below: faults that the checks above must not miss.

void remove(Program& program, Instruction instruction) {
  const auto found = std::find(program.begin(), program.end(), instruction);
  ASSERT_NE(found, program.end());
  program.erase(found);
}

TEST_P(Schedule, ADroppedSendIsDetected) {
  for (const Operation operation : {Operation::send_state, Operation::send_adjoint}) {
    std::vector<Program> programs = programs_of(rule_, 3, 4);
    remove(programs[1], {operation, 2});

    EXPECT_NE(faults_of(programs, 4, true), Faults{});
    EXPECT_NE(ScheduleReplay(programs).faults(), Faults{});
  }
}

TEST_P(Schedule, ADroppedReceiveIsDetected) {
  for (const Operation operation : {Operation::receive_state, Operation::receive_adjoint}) {
    std::vector<Program> programs = programs_of(rule_, 3, 4);
    remove(programs[1], {operation, 2});

    EXPECT_NE(faults_of(programs, 4, true), Faults{});
    EXPECT_NE(ScheduleReplay(programs).faults(), Faults{});
  }
}

TEST_P(Schedule, ASwappedOrderIsDetected) {
  std::vector<Program> programs = programs_of(rule_, 2, 5);
  for (Instruction& instruction : programs[0])
    if (instruction.operation == Operation::forward ||
        instruction.operation == Operation::send_state)
      instruction.micro_batch = 4 - instruction.micro_batch;

  EXPECT_NE(faults_of(programs, 5, true), Faults{});
  // three buffers hold micro-batches 4, 3 and 2 while rank 1 waits for 0
  EXPECT_NE(ScheduleReplay(programs).faults(), Faults{});
}

TEST_P(Schedule, GoingBackwardInDescendingOrderIsDetected) {
  std::vector<Program> programs = programs_of(rule_, 1, 2);
  for (Program& program : programs)
    for (Instruction& instruction : program)
      if (instruction.operation == Operation::backward)
        instruction.micro_batch = 1 - instruction.micro_batch;

  EXPECT_NE(faults_of(programs, 2, true), Faults{});
}

// All sends and receives pair up in order, but rank 0 waits for the adjoint of a state that it has
// not sent.
TEST(ScheduleReplay, FindsADeadlockWhereEveryMessagePairsUp) {
  std::vector<Program> programs = programs_of(schedule_rule("gpipe"), 2, 1);
  remove(programs[0], {Operation::send_state, 0});
  programs[0].push_back({Operation::send_state, 0});

  EXPECT_EQ(faults_of(programs, 1, true), Faults{});
  EXPECT_NE(ScheduleReplay(programs).faults(), Faults{});
}

// Every message pairs up in order. But rank 0 takes adjoints only after all of its forward sweeps,
// while rank 1 sends one behind each: one adjoint waits in rank 0's posted receive and three in
// rank 1's buffers, so that rank 1 can't take the fifth micro-batch back; likewise forward.
TEST(ScheduleReplay, FindsADeadlockThatMoreBuffersWouldHide) {
  const auto mixed = [](int num_micro_batches) {
    return std::vector<Program>{schedule_rule("gpipe").make(0, 2, num_micro_batches),
                                schedule_rule("1f1b").make(1, 2, num_micro_batches)};
  };

  EXPECT_EQ(faults_of(mixed(10), 10, true), Faults{});
  EXPECT_NE(ScheduleReplay(mixed(10)).faults(), Faults{});
  EXPECT_EQ(ScheduleReplay(mixed(4)).faults(), Faults{});
}

TEST(ScheduleRule, AnUnknownNameListsTheKnownOnes) {
  const std::string text = error_text(ExitStatus::bad_input, [] { schedule_rule("2f2b"); });

  for (const std::string part : {"--schedule", "2f2b", "gpipe", "1f1b"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

}  // namespace
}  // namespace revode
