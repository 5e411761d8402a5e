// Every schedule, played without MPI by the executor and the mailbox of the program, for 1 to 16
// ranks and 1 to 32 micro-batches, with messages that come late, early or in no order; and proof
// that the simulation finds faults where there are some.
#include "revode/pipeline/schedule.hpp"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "revode/core/random.hpp"
#include "revode/pipeline/simulation.hpp"

#include "pipeline/shuffled_schedule.hpp"
#include "support/error_text.hpp"

namespace revode {
namespace {

using Faults = std::vector<std::string>;

/// Seconds of one micro-batch on one slice.
constexpr double forward_seconds = 1, backward_seconds = 2;

double equal_seconds(const Work& work) {
  return work.sweep == Sweep::forward ? forward_seconds : backward_seconds;
}

Placement one_slice_a_rank(int num_ranks) { return Placement::round_robin(num_ranks, num_ranks); }

std::vector<WorkOrder> orders_of(const ScheduleRule& rule, const Placement& placement,
                                 int num_micro_batches) {
  std::vector<WorkOrder> orders;
  for (int rank = 0; rank < placement.num_ranks(); ++rank)
    orders.push_back(rule.make(rank, placement, num_micro_batches));
  return orders;
}

/// What makes a link slow, early or moody. `number` tells one from the other.
struct Delays {
  std::string name;
  SimulationCosts costs;
};

std::vector<Delays> adversarial_delays(std::uint64_t seed) {
  const auto random = [seed](std::uint64_t number) {
    return RandomStream(seed, Purpose::check, number).uniform(0, 10);
  };
  const auto number_of = [](const MessageTag& tag, int from) {
    return ((static_cast<std::uint64_t>(from) * 64 + tag.slice) * 64 + tag.micro_batch) * 8 +
           static_cast<std::uint64_t>(tag.kind);
  };
  const auto random_message = [=](int from, int, const MessageTag& tag, double) {
    return random(number_of(tag, from));
  };
  const auto random_work = [=](const Work& work) {
    return random(1'000'000 + (static_cast<std::uint64_t>(work.slice) * 64 + work.micro_batch) * 2 +
                  (work.sweep == Sweep::forward ? 0 : 1));
  };
  return {
      {"none", {.compute = equal_seconds}},
      {"late", {.compute = equal_seconds, .message = [](auto&&...) { return 50.0; }}},
      {"early", {.compute = equal_seconds, .delivery = Delivery::at_once}},
      {"one link slow",
       {.compute = equal_seconds,
        .message = [](int from, int to, auto&&...) { return from == 1 || to == 1 ? 20.0 : 0.0; }}},
      {"random", {.compute = random_work, .message = random_message}},
      {"random, early",
       {.compute = random_work, .message = random_message, .delivery = Delivery::at_once}},
  };
}

// Sanitizers look at memory, and find in small programs what there is.
#ifdef __SANITIZE_ADDRESS__
constexpr int most_ranks = 4, most_micro_batches = 7;
#else
constexpr int most_ranks = 16, most_micro_batches = 32;
#endif

/// check(ranks, micro-batches) for every pair.
template <typename Check>
void for_each_size(Check&& check) {
  for (int num_ranks = 1; num_ranks <= most_ranks; ++num_ranks) {
    for (int num_micro_batches = 1; num_micro_batches <= most_micro_batches; ++num_micro_batches) {
      SCOPED_TRACE(fmt::format("{} ranks, {} micro-batches", num_ranks, num_micro_batches));
      check(num_ranks, num_micro_batches);
    }
  }
}

/// Work that is missing, repeated, on another rank, or back before it went forward.
Faults faults_of(const std::vector<WorkOrder>& orders, const Placement& placement,
                 int num_micro_batches, bool with_backward) {
  Faults faults;
  std::set<Work> seen;
  for (int rank = 0; rank < placement.num_ranks(); ++rank) {
    for (const Work& work : orders[rank]) {
      if (placement.rank_of(work.slice) != rank) faults.emplace_back("a slice of another rank");
      if (!seen.insert(work).second) faults.emplace_back("repeated work");
      if (work.sweep == Sweep::backward &&
          !seen.contains({Sweep::forward, work.slice, work.micro_batch}))
        faults.emplace_back("backward first");
    }
  }
  const std::size_t expected =
      std::size_t{1} * placement.num_slices() * num_micro_batches * (with_backward ? 2 : 1);
  if (seen.size() != expected) faults.emplace_back("work is missing");
  return faults;
}

std::vector<const ScheduleRule*> rules_under_test() {
  std::vector<const ScheduleRule*> rules{&shuffled_schedule};
  for (const std::string& name : schedule_names()) rules.push_back(&schedule_rule(name));
  return rules;
}

class Schedule : public testing::TestWithParam<const ScheduleRule*> {
 protected:
  const ScheduleRule& rule_ = *GetParam();
};

INSTANTIATE_TEST_SUITE_P(Known, Schedule, testing::ValuesIn(rules_under_test()),
                         [](const auto& rule) { return std::string(rule.param->name); });

TEST_P(Schedule, EverySliceTakesEveryMicroBatchForwardAndBackOnce) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    const Placement placement = one_slice_a_rank(num_ranks);
    EXPECT_EQ(faults_of(orders_of(rule_, placement, num_micro_batches), placement,
                        num_micro_batches, true),
              Faults{});
  });
}

TEST_P(Schedule, NothingWaitsForEverHoweverMessagesCome) {
  int num_played = 0;
  for_each_size([&](int num_ranks, int num_micro_batches) {
    const Placement placement = one_slice_a_rank(num_ranks);
    const std::vector<Program> programs = make_programs(rule_, placement, num_micro_batches);
    for (const Delays& delays : adversarial_delays(num_ranks * 100 + num_micro_batches)) {
      SCOPED_TRACE(delays.name);
      EXPECT_EQ(simulate(programs, placement, delays.costs).faults, Faults{});
      ++num_played;
    }
  });
  RecordProperty("programs_x_delays", num_played);
}

TEST_P(Schedule, ThreeSlotsADirectionAreEnough) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    const Placement placement = one_slice_a_rank(num_ranks);
    for (const Program& program : make_programs(rule_, placement, num_micro_batches))
      for (const SlotPool& pool : program.pools) EXPECT_LE(pool.num_slots, num_ranks == 1 ? 1 : 3);
  });
}

// (T - 1) / (M + T - 1): the pipeline fills and drains once a step.
TEST_P(Schedule, TheBubbleOfEqualSlicesIsThatOfFillingAndDraining) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    const Placement placement = one_slice_a_rank(num_ranks);
    const SimulationResult result = simulate(make_programs(rule_, placement, num_micro_batches),
                                             placement, {.compute = equal_seconds});
    EXPECT_NEAR(result.bubble(),
                static_cast<double>(num_ranks - 1) / (num_micro_batches + num_ranks - 1), 1e-12);
  });
}

TEST(OneForwardOneBackward, HoldsNoMoreMicroBatchesThanThereAreRanksToTheEnd) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    const Placement placement = one_slice_a_rank(num_ranks);
    for (int rank = 0; rank < num_ranks; ++rank) {
      EXPECT_EQ(
          most_in_flight(schedule_rule("1f1b").make(rank, placement, num_micro_batches), rank),
          std::min(num_ranks - rank, num_micro_batches));
      EXPECT_EQ(
          most_in_flight(schedule_rule("gpipe").make(rank, placement, num_micro_batches), rank),
          num_micro_batches);
    }
  });
}

TEST(ForwardOrder, IsSoundForEverySize) {
  for_each_size([&](int num_ranks, int num_micro_batches) {
    for (const int slices_a_rank : {1, 2, 3}) {
      SCOPED_TRACE(slices_a_rank);
      const Placement placement = Placement::round_robin(slices_a_rank * num_ranks, num_ranks);
      std::vector<WorkOrder> orders;
      for (int rank = 0; rank < num_ranks; ++rank)
        orders.push_back(forward_order(rank, placement, num_micro_batches));
      EXPECT_EQ(faults_of(orders, placement, num_micro_batches, false), Faults{});
      const std::vector<Program> programs = make_forward_programs(placement, num_micro_batches);
      for (const Delays& delays : adversarial_delays(num_ranks))
        EXPECT_EQ(simulate(programs, placement, delays.costs).faults, Faults{}) << delays.name;
    }
  });
}

std::vector<const ScheduleRule*> rules_for_several_slices() {
  std::vector<const ScheduleRule*> rules = rules_under_test();
  std::erase_if(rules, [](const ScheduleRule* rule) { return !rule->plays_several_slices; });
  return rules;
}

// Several slices a rank turn the chain into a ring: neighbours in depth are one rank or two.
class RingSchedule : public Schedule {};

INSTANTIATE_TEST_SUITE_P(Known, RingSchedule, testing::ValuesIn(rules_for_several_slices()),
                         [](const auto& rule) { return std::string(rule.param->name); });

TEST_P(RingSchedule, PlaysSeveralSlicesARank) {
  for (const std::vector<int>& rank_of_slice : {std::vector{0, 1, 0},
                                                {0, 0},
                                                {0, 1, 0, 1},
                                                {0, 1, 2, 0, 1, 2},
                                                {1, 0, 0, 2, 1},
                                                {0, 1, 2, 2, 1, 0},
                                                {0, 0, 1, 1},
                                                {0, 1, 0, 1, 0, 1, 0, 1}}) {
    const Placement placement(rank_of_slice);
    if (rule_.name == "interleaved" && !placement.goes_round()) continue;
    for (int num_micro_batches = 1; num_micro_batches <= 12; ++num_micro_batches) {
      SCOPED_TRACE(
          fmt::format("{} slices, {} micro-batches", rank_of_slice.size(), num_micro_batches));
      EXPECT_EQ(faults_of(orders_of(rule_, placement, num_micro_batches), placement,
                          num_micro_batches, true),
                Faults{});
      const std::vector<Program> programs = make_programs(rule_, placement, num_micro_batches);
      for (const Delays& delays : adversarial_delays(num_micro_batches))
        EXPECT_EQ(simulate(programs, placement, delays.costs).faults, Faults{}) << delays.name;
    }
  }
}

// (T - 1) / (V M + T - 1) from as many micro-batches as ranks on: V slices a rank fill and drain
// the pipeline in a V-th of the time. Where groups are much larger than T, ranks wait a little
// more. Each size meets one kind of delay, or all of them with REVODE_ALL_CASES.
TEST(Interleaved, IsSoundAndSavesBubbleForEverySize) {
  const ScheduleRule& rule = schedule_rule("interleaved");
  const bool all_cases = std::getenv("REVODE_ALL_CASES") != nullptr;
  int num_played = 0;
  for_each_size([&](int num_ranks, int num_micro_batches) {
    for (int slices_a_rank = 2; slices_a_rank <= 4; ++slices_a_rank) {
      SCOPED_TRACE(slices_a_rank);
      const Placement placement = Placement::round_robin(slices_a_rank * num_ranks, num_ranks);
      EXPECT_EQ(faults_of(orders_of(rule, placement, num_micro_batches), placement,
                          num_micro_batches, true),
                Faults{});
      const std::vector<Program> programs = make_programs(rule, placement, num_micro_batches);
      const int number = num_ranks * 100 + num_micro_batches;
      const std::vector<Delays> delays = adversarial_delays(number);
      for (std::size_t i = 0; i < delays.size(); ++i) {
        if (!all_cases && i != (number + slices_a_rank) % delays.size()) continue;
        SCOPED_TRACE(delays[i].name);
        EXPECT_EQ(simulate(programs, placement, delays[i].costs).faults, Faults{});
        ++num_played;
      }
      const int largest_group = micro_batch_groups(num_ranks, num_micro_batches).front();
      if (num_micro_batches >= num_ranks && 4 * largest_group <= 5 * num_ranks) {
        EXPECT_NEAR(simulate(programs, placement, {.compute = equal_seconds}).bubble(),
                    (num_ranks - 1.0) / (slices_a_rank * num_micro_batches + num_ranks - 1), 1e-12);
      }
    }
  });
  RecordProperty("programs_x_delays", num_played);
}

TEST(Lower, PutsNoMessageBetweenSlicesOfOneRank) {
  const Placement placement({0, 0, 1});
  for (const Program& program : make_programs(schedule_rule("gpipe"), placement, 3))
    for (const auto& [operation, work] : program.instructions)
      if (operation != Operation::compute) {
        const int boundary = (operation == Operation::receive) == (work.sweep == Sweep::forward)
                                 ? work.slice
                                 : work.slice + 1;
        EXPECT_EQ(boundary, 2) << to_string({operation, work});
      }
}

// Rank 1 takes what rank 0 sends in the opposite order: all of it must have arrived first.
TEST(Lower, FindsTheSlotsForMessagesThatArriveBeforeTheirTurn) {
  const Placement placement = one_slice_a_rank(2);
  constexpr int num_micro_batches = 6;
  std::vector<WorkOrder> orders(2);
  for (int m = 0; m < num_micro_batches; ++m) {
    orders[0].push_back({Sweep::forward, 0, m});
    orders[1].push_back({Sweep::forward, 1, num_micro_batches - 1 - m});
  }

  const std::vector<Program> programs = make_programs(orders, placement);

  ASSERT_EQ(programs[1].pools.size(), 1u);
  EXPECT_EQ(programs[1].pools[0].num_slots, num_micro_batches);
  for (const Delays& delays : adversarial_delays(1))
    EXPECT_EQ(simulate(programs, placement, delays.costs).faults, Faults{}) << delays.name;
}

// Rank 0 takes adjoints only after all of its forward sweeps, while rank 1 sends one behind each.
// With three slots a direction one adjoint waits in rank 0's posted receive and the rest in rank
// 1's slots, so that rank 1 can't go on.
TEST(MakePrograms, AddsSlotsWhereRanksWouldWaitForEver) {
  const Placement placement = one_slice_a_rank(2);
  const std::vector<WorkOrder> mixed{schedule_rule("gpipe").make(0, placement, 10),
                                     schedule_rule("1f1b").make(1, placement, 10)};

  EXPECT_NE(simulate(lower(mixed, placement), placement, {.compute = equal_seconds}).faults,
            Faults{});

  const std::vector<Program> programs = make_programs(mixed, placement);
  for (const Delays& delays : adversarial_delays(2))
    EXPECT_EQ(simulate(programs, placement, delays.costs).faults, Faults{}) << delays.name;
}

TEST(MakePrograms, RefusesOrdersThatWaitForEachOther) {
  const Placement placement = one_slice_a_rank(2);
  // Rank 0 goes back before it goes forward.
  std::vector<WorkOrder> orders{{{Sweep::backward, 0, 0}, {Sweep::forward, 0, 0}},
                                {{Sweep::forward, 1, 0}, {Sweep::backward, 1, 0}}};

  EXPECT_THROW(make_programs(orders, placement), std::logic_error);
}

// Below: faults in programs that the simulation must not miss.

void remove(Program& program, const Instruction& instruction) {
  const auto found = std::ranges::find(program.instructions, instruction);
  ASSERT_NE(found, program.instructions.end());
  program.instructions.erase(found);
}

TEST_P(Schedule, ADroppedMessageIsDetected) {
  const Placement placement = one_slice_a_rank(3);
  for (const Operation operation : {Operation::receive, Operation::send}) {
    for (const Sweep sweep : {Sweep::forward, Sweep::backward}) {
      std::vector<Program> programs = make_programs(rule_, placement, 4);
      remove(programs[1], {operation, {sweep, 1, 2}});

      EXPECT_NE(simulate(programs, placement, {.compute = equal_seconds}).faults, Faults{});
    }
  }
}

TEST_P(Schedule, ADroppedComputationIsDetected) {
  const Placement placement = one_slice_a_rank(3);
  std::vector<Program> programs = make_programs(rule_, placement, 4);
  remove(programs[1], {Operation::compute, {Sweep::backward, 1, 3}});

  EXPECT_NE(simulate(programs, placement, {.compute = equal_seconds}).faults, Faults{});
}

TEST_P(Schedule, TooFewSlotsAreDetected) {
  const Placement placement = one_slice_a_rank(2);
  std::vector<Program> programs = make_programs(rule_, placement, 4);
  for (SlotPool& pool : programs[1].pools) pool.num_slots = 0;

  EXPECT_NE(simulate(programs, placement, {.compute = equal_seconds}).faults, Faults{});
}

TEST(ScheduleRule, AnUnknownNameListsTheKnownOnes) {
  const std::string text = error_text(ExitStatus::bad_input, [] { schedule_rule("2f2b"); });

  for (const std::string part : {"--schedule", "2f2b", "gpipe", "1f1b"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

}  // namespace
}  // namespace revode
