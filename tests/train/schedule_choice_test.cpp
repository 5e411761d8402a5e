// What is chosen once costs are known, with costs that are made up.
#include "revode/train/schedule_choice.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "revode/files/json_text.hpp"
#include "revode/train/machine_file.hpp"
#include "revode/train/memory_forecast.hpp"

#include "support/error_text.hpp"

namespace revode {
namespace {

constexpr int micro_batch = 8;

RunPlan plan_of(std::vector<std::string> words, int num_ranks) {
  std::vector<const char*> arguments{"revode"};
  for (const std::string& word : words) arguments.push_back(word.c_str());
  RunPlan plan = make_plan(parse_command_line(static_cast<int>(arguments.size()), arguments.data()),
                           num_ranks);
  plan.costs = {uniform_costs(plan.architecture)};
  return plan;
}

int slices_a_rank(const RunPlan& plan) {
  return plan.placement.num_slices() / plan.placement.num_ranks();
}

TEST(ScheduleChoice, TakesThinSlicesWhereTheySaveTime) {
  const RunPlan plan = choose_schedule(plan_of({"--depth", "98"}, 2), micro_batch);

  EXPECT_EQ(plan.schedule->name, "interleaved");
  EXPECT_EQ(slices_a_rank(plan), 3);  // 4 would save less than 2% more
  EXPECT_NEAR(simulate_step(plan, step_programs(plan)).bubble(), 1.0 / (3 * 4 + 1), 1e-12);
  for (const char* part : {"interleaved with 3 slices a rank", "8%", "1f1b with 1 slice", "20%"})
    EXPECT_NE(plan.choice.find(part), std::string::npos) << plan.choice;
}

// 128 micro-batches hide the filling: finer cuts save less than their messages may cost. Equal
// times: 1f1b, which needs less memory than gpipe.
TEST(ScheduleChoice, TakesFewMessagesWhereThinSlicesSaveLittle) {
  const RunPlan plan = choose_schedule(
      plan_of({"--depth", "98", "--batch-size", "128", "--micro-batches", "128"}, 2), micro_batch);

  EXPECT_EQ(plan.schedule->name, "1f1b");
  EXPECT_EQ(slices_a_rank(plan), 1);
}

// The same network, where messages take as long as the blocks.
TEST(ScheduleChoice, TakesFewMessagesWhereTheyAreSlow) {
  RunPlan plan = plan_of({"--depth", "98"}, 2);
  plan.costs.front().message_value = 1e-5;

  const RunPlan chosen = choose_schedule(plan, micro_batch);

  EXPECT_EQ(slices_a_rank(chosen), 1);
}

// The last micro-batch goes to the second rank, and back from there.
TEST(ScheduleChoice, RanksWaitForTheLatencyOfMessages) {
  RunPlan plan = plan_of({"--schedule", "gpipe", "--slices-per-rank", "1"}, 2);
  const double seconds = simulate_step(plan, step_programs(plan)).seconds;
  plan.costs.front().message_latency = 0.25;

  EXPECT_DOUBLE_EQ(simulate_step(plan, step_programs(plan)).seconds, seconds + 2 * 0.25);
}

TEST(ScheduleChoice, KeepsWhatWasGiven) {
  EXPECT_EQ(slices_a_rank(choose_schedule(plan_of({"--depth", "98", "--slices-per-rank", "2"}, 2),
                                          micro_batch)),
            2);
  const RunPlan gpipe = choose_schedule(plan_of({"--schedule", "gpipe"}, 2), micro_batch);
  EXPECT_EQ(gpipe.schedule->name, "gpipe");
  EXPECT_EQ(gpipe.choice, "");
}

TEST(ScheduleChoice, CutsByTheCosts) {
  RunPlan plan = plan_of({"--schedule", "1f1b"}, 2);
  plan.costs.front().blocks[0] = {100, 300};

  const RunPlan chosen = choose_schedule(plan, micro_batch);

  EXPECT_EQ(chosen.slices.front().last, 4);  // of the 7 blocks of stage 1
}

TEST(ScheduleChoice, FastRanksGetMore) {
  RunPlan plan = plan_of({"--schedule", "1f1b"}, 2);
  plan.costs = {uniform_costs(plan.architecture), uniform_costs(plan.architecture)};
  for (SweepCost& cost : plan.costs[0].blocks) cost = {2, 6};

  EXPECT_EQ(choose_schedule(plan, micro_batch).slices.front().last, 6);
}

TEST(ScheduleChoice, HeedsTheMemoryLimit) {
  const auto bytes_of = [](const RunPlan& plan) {
    const std::vector<MemoryForecast> ranks = forecast_memory(plan, micro_batch);
    return std::max(ranks[0].total(), ranks[1].total());
  };
  const RunPlan free = choose_schedule(plan_of({"--depth", "98"}, 2), micro_batch);
  RunPlan limited = plan_of({"--depth", "98"}, 2);
  limited.memory_limit = static_cast<std::int64_t>(bytes_of(free)) - 1;
  const RunPlan chosen = choose_schedule(limited, micro_batch);
  EXPECT_LT(bytes_of(chosen), bytes_of(free));

  const RunPlan coarse = choose_schedule(
      plan_of({"--depth", "98", "--schedule", "1f1b", "--slices-per-rank", "1"}, 2), micro_batch);
  limited.memory_limit = static_cast<std::int64_t>(bytes_of(coarse));
  const RunPlan least = choose_schedule(limited, micro_batch);
  EXPECT_EQ(least.schedule->name, "1f1b");
  EXPECT_EQ(slices_a_rank(least), 1);
  EXPECT_GT(slices_a_rank(free), 1);

  limited = plan_of({"--depth", "98", "--memory-limit", "1M"}, 2);
  const std::string text =
      error_text(ExitStatus::bad_input, [&] { choose_schedule(limited, micro_batch); });
  for (const char* part : {"--memory-limit 1M", "1f1b with 1 slice", "MiB"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

std::string machine_text(const RunPlan& plan, int num_images) {
  nlohmann::ordered_json machine{{"format", "revode-machine"}};
  machine["ranks"] = machine_ranks(plan.architecture, {{num_images, plan.costs}});
  return to_text(machine);
}

TEST(MachineFile, GivesCostsBackForMicroBatchesOfAnySize) {
  RunPlan plan = plan_of({}, 1);
  plan.costs.front() = {.opening = {1000, 2000},
                        .closing = {3000, 4000},
                        .blocks = {{10'000, 30'000}, {20'000, 60'000}, {50'000, 90'000}},
                        .transitions = {{100, 200}, {300, 400}},
                        .visits = {{10, 20}, {30, 40}, {50, 60}},
                        .message_value = 0.5,
                        .copied_value = 2.5,
                        .message_latency = 1500};
  const std::string text = machine_text(plan, 10);

  const std::vector<LayerCosts> costs = MachineFile(text, "m.json").costs(plan.architecture, 4, 5);

  ASSERT_EQ(costs.size(), 1u);
  EXPECT_EQ(costs[0].opening.back, 1000);
  EXPECT_EQ(costs[0].closing.forward, 1500);
  EXPECT_EQ(costs[0].blocks[2].back, 45'000);
  EXPECT_EQ(costs[0].transitions[1].forward, 150);
  EXPECT_EQ(costs[0].visits[2].back, 30);
  EXPECT_DOUBLE_EQ(costs[0].message_value, 0.5);  // whatever the micro-batch
  EXPECT_DOUBLE_EQ(costs[0].copied_value, 2.5);
  EXPECT_DOUBLE_EQ(costs[0].message_latency, 1500);
}

TEST(MachineFile, TakesAStraightLineBetweenTheSizesThatWereTimed) {
  RunPlan plan = plan_of({}, 1);
  const auto costs_with = [&](std::int64_t forward) {
    LayerCosts costs = uniform_costs(plan.architecture);
    costs.opening = {forward, 3 * forward};
    return std::vector{costs};
  };
  nlohmann::ordered_json machine{{"format", "revode-machine"}};
  machine["ranks"] = machine_ranks(plan.architecture, {{8, costs_with(800)}, {4, costs_with(600)}});
  const auto opening = [&](int num_images) {
    return MachineFile(to_text(machine), "m.json")
        .costs(plan.architecture, 1, num_images)
        .front()
        .opening;
  };

  EXPECT_EQ(opening(4).forward, 600);
  EXPECT_EQ(opening(6).forward, 700);
  EXPECT_EQ(opening(7).back, 3 * 750);
  EXPECT_EQ(opening(8).forward, 800);
  EXPECT_EQ(opening(16).forward, 1600);  // beyond: in proportion
  EXPECT_EQ(opening(2).forward, 300);
}

TEST(MachineFile, SaysHowManyCopiesOfWeightsKernelsKeep) {
  const RunPlan plan = plan_of({}, 1);
  nlohmann::ordered_json machine{{"format", "revode-machine"}};
  machine["ranks"] = machine_ranks(plan.architecture, {{1, plan.costs}});
  const auto copies = [&] { return MachineFile(to_text(machine), "m.json").kernel_copies(); };
  EXPECT_EQ(copies(), 1);
  machine["kernel_copies"] = 8;
  EXPECT_EQ(copies(), 8);
  RunPlan more = plan;
  more.kernel_copies = copies();
  const MemoryForecast one = forecast_memory(plan, 1).front();
  EXPECT_DOUBLE_EQ(one.packed_weights, one.weights);
  EXPECT_DOUBLE_EQ(forecast_memory(more, 1).front().packed_weights, 8 * one.weights);
  machine["kernel_copies"] = "many";
  EXPECT_NE(error_text(ExitStatus::bad_input, copies).find("'kernel_copies'"), std::string::npos);
}

TEST(MachineFile, WhatDoesNotFitIsRefused) {
  RunPlan plan = plan_of({}, 1);
  const auto refused = [&](const std::string& text, int num_ranks) {
    return error_text(ExitStatus::bad_input,
                      [&] { MachineFile(text, "m.json").costs(plan.architecture, num_ranks, 5); });
  };
  EXPECT_NE(refused("{}", 1).find("not a machine file"), std::string::npos);
  const std::string text = machine_text(plan, 10);
  EXPECT_NE(refused(text.substr(0, text.size() / 2), 1).find("not a machine file"),
            std::string::npos);
  const RunPlan other = plan_of({"--widths", "16,32,64"}, 1);
  EXPECT_NE(refused(machine_text(other, 10), 1).find("'hamiltonian opening 3 -> 16 x 32 x 32'"),
            std::string::npos);
  plan.costs.push_back(plan.costs.front());
  EXPECT_NE(refused(machine_text(plan, 10), 3).find("2 ranks are of unequal speed"),
            std::string::npos);
  const auto refused_with = [&](const std::string& name, const char* wrong) {
    std::string changed = text;
    const std::string key = "\"" + name + "\":";
    const auto begin = changed.find(key) + key.size();
    changed.replace(begin, changed.find(',', begin) - begin, wrong);
    return refused(changed, 1).find("'" + name + "'") != std::string::npos;
  };
  for (const char* wrong : {"-1", "1e300", "\"fast\"", "null"})
    EXPECT_TRUE(refused_with("forward_seconds", wrong)) << wrong;
  for (const char* wrong : {"0", "1.5", "1e300", "\"many\"", "null"})
    EXPECT_TRUE(refused_with("images", wrong)) << wrong;
}

}  // namespace
}  // namespace revode
