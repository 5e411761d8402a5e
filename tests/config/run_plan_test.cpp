// From options to a plan: each text becomes its type, and what was left open follows from the rest.
#include "revode/config/run_plan.hpp"

#include <gtest/gtest.h>

#include "revode/pipeline/partition.hpp"

#include "config/config_support.hpp"

namespace revode {
namespace {

using test::expect_input_error;
using test::parse;

RunPlan plan_of(const std::vector<std::string>& words, int num_ranks = 1) {
  return make_plan(parse(words), num_ranks);
}

TEST(RunPlan, TextsBecomeTypes) {
  const RunPlan usual = plan_of({});
  EXPECT_EQ(usual.activations, Activations::reverse);
  EXPECT_EQ(usual.schedule, &schedule_rule("1f1b"));
  EXPECT_EQ(usual.split, Split::test);
  EXPECT_FALSE(usual.samples);
  EXPECT_EQ(usual.progress, ProgressSetting::automatic);
  EXPECT_FALSE(usual.time_limit_seconds);

  const RunPlan other = plan_of({"gradient", "--activations", "store", "--schedule", "gpipe",
                                 "--split", "train", "--samples", "3:8"});
  EXPECT_EQ(other.activations, Activations::store);
  EXPECT_EQ(other.schedule, &schedule_rule("gpipe"));
  EXPECT_EQ(other.split, Split::train);
  ASSERT_TRUE(other.samples);
  EXPECT_EQ(other.samples->first, 3);
  EXPECT_EQ(other.samples->last, 8);

  const RunPlan third = plan_of({"--progress", "off", "--time-limit", "01:02"});
  EXPECT_EQ(third.progress, ProgressSetting::off);
  EXPECT_EQ(third.time_limit_seconds, 3720);
  EXPECT_EQ(plan_of({"--progress", "on"}).progress, ProgressSetting::on);
}

TEST(RunPlan, EveryNamedScheduleIsPlanned) {
  for (const std::string& name : schedule_names())
    EXPECT_EQ(plan_of({"--schedule", name}).schedule->name, name);
}

TEST(RunPlan, ACommandSaysWhatItsNetworkIsFor) {
  EXPECT_EQ(plan_of({"train"}).use, NetworkUse::training);
  EXPECT_EQ(plan_of({"bench"}).use, NetworkUse::training);
  EXPECT_EQ(plan_of({"gradient"}).use, NetworkUse::gradient);
  EXPECT_EQ(plan_of({"verify"}).use, NetworkUse::gradient);
  EXPECT_EQ(plan_of({"eval", "--checkpoint", "m.h5"}).use, NetworkUse::evaluation);
}

TEST(RunPlan, WhatIsLeftOpenFollowsFromTheRest) {
  const RunPlan plan = plan_of({"--batch-size", "3"});
  EXPECT_EQ(plan.num_micro_batches, 3);  // no more than images
  EXPECT_EQ(plan.config.micro_batches, 3);
  EXPECT_EQ(plan.config.depth, plan.architecture.depth());
  EXPECT_EQ(plan.config.blocks, plan.architecture.blocks());
  EXPECT_EQ(plan.config.widths, plan.architecture.widths());
  EXPECT_EQ(plan.config.epochs, 10);  // of the synthetic images
  EXPECT_EQ(plan_of({"--dataset", "cifar10", "--data-dir", "."}).config.epochs, 200);
}

TEST(RunPlan, ImagesThatAreDrawnHaveTheSizeAskedFor) {
  EXPECT_EQ(plan_of({}).config.image_size, 32);
  for (const char* command : {"train", "bench", "gradient", "verify"}) {
    const RunPlan plan = plan_of({command, "--image-size", "224"});
    EXPECT_EQ(plan.architecture.image_height(), 224);
    EXPECT_EQ(plan.architecture.stages().back().width_pixels, 56);
    EXPECT_EQ(plan.config.image_size, 224);
  }
  EXPECT_FALSE(plan_of({"--dataset", "stl10", "--data-dir", "."}).config.image_size);
  expect_input_error([] { plan_of({"--image-size", "50"}); }, {"50 x 50", "--image-size", "4"});
}

TEST(RunPlan, WithoutSamplesVerifyAndGradientTakeTheFirstMiniBatch) {
  for (const char* command : {"gradient", "verify"}) {
    Config config = parse({command, "--batch-size", "8"});
    EXPECT_EQ(make_plan(config, 1).samples->last, 8);
    config = make_plan(config, 1).config;
    config.batch_size = 24;
    EXPECT_EQ(make_plan(config, 1).samples->last, 24);
  }
  EXPECT_EQ(plan_of({"verify"}).split, Split::train);
}

TEST(RunPlan, TheCutIsMadeForTheSlicesOfThePlacement) {
  const RunPlan chain = plan_of({"--depth", "74"}, 3);
  EXPECT_EQ(chain.placement.num_slices(), 3);
  EXPECT_EQ(chain.slices, partition(chain.architecture, 3));

  const RunPlan ring = make_plan(parse({"--depth", "74"}), Placement::round_robin(4, 2));
  EXPECT_EQ(ring.slices, partition(ring.architecture, 4));
}

TEST(RunPlan, SeveralSlicesARankGoRoundTheRanks) {
  const RunPlan plan = plan_of({"--slices-per-rank", "3", "--schedule", "interleaved"}, 2);
  EXPECT_EQ(plan.placement.num_slices(), 6);
  EXPECT_EQ(plan.placement.slices_of(1), (std::vector{1, 3, 5}));
  EXPECT_EQ(plan_of({"--slices-per-rank", "2"}, 2).schedule, &schedule_rule("interleaved"));
  expect_input_error(
      [] {
        plan_of({"--slices-per-rank", "2", "--schedule", "1f1b"}, 2);
      },
      {"--slices-per-rank 2", "1f1b", "interleaved"});
  expect_input_error(
      [] {
        plan_of({"--slices-per-rank", "10"}, 2);
      },
      {"--slices-per-rank 10", "18 blocks", "at most 9"});
}

TEST(RunPlan, TrainingLeavesToTheCostsWhatTheUserLeftOpen) {
  const RunPlan open = plan_of({}, 2);
  EXPECT_TRUE(open.chooses_schedule && open.chooses_slices);
  EXPECT_EQ(open.cut_rule, CutRule::measured);
  const RunPlan given = plan_of({"--slices-per-rank", "2"}, 2);
  EXPECT_TRUE(given.chooses_schedule && !given.chooses_slices);
  const RunPlan fixed = plan_of({"--schedule", "1f1b", "--partition", "uniform"}, 2);
  EXPECT_FALSE(fixed.chooses_schedule || fixed.chooses_slices);
  EXPECT_EQ(fixed.cut_rule, CutRule::uniform);
  EXPECT_EQ(fixed.slices, (std::vector<BlockRange>{{0, 9}, {9, 18}}));
  EXPECT_FALSE(plan_of({"gradient"}, 2).chooses_schedule);
}

TEST(ParseBytes, TakesPowersOf1024) {
  EXPECT_EQ(parse_bytes("800"), 800);
  EXPECT_EQ(parse_bytes("2K"), 2048);
  EXPECT_EQ(parse_bytes("1.5G"), 3 * (std::int64_t{1} << 29));
  for (const char* text : {"", "G", "0", "-1M", "1X", "1GB", "1e300T", "0.1"})
    EXPECT_FALSE(parse_bytes(text)) << text;
}

TEST(RunPlan, RanksThatDoNotFitAreRefused) {
  EXPECT_EQ(plan_of({"--time-ranks", "2"}, 2).placement.num_ranks(), 2);
  expect_input_error(
      [] {
        plan_of({"--time-ranks", "4"}, 6);
      },
      {"--time-ranks 4", "6 ranks", "1 x 6, 2 x 3, 3 x 2, 6 x 1"});
  expect_input_error([] { plan_of({"--data-ranks", "5"}, 6); }, {"--data-ranks 5", "2 x 3"});
  expect_input_error(
      [] {
        plan_of({"--time-ranks", "2", "--data-ranks", "2"}, 6);
      },
      {"--time-ranks 2 --data-ranks 2", "6 ranks", "2 x 3"});
  expect_input_error([] { plan_of({"--blocks", "1,1,1"}, 4); }, {"4", "3"});
}

TEST(RunPlan, WhereOneSideOfTheGridIsGivenTheOtherFollows) {
  const auto shape_of = [](const std::vector<std::string>& options) {
    const RunPlan plan = plan_of(options, 4);
    return std::pair(plan.placement.num_ranks(), plan.data_ranks);
  };
  EXPECT_EQ(shape_of({}), std::pair(4, 1));
  EXPECT_EQ(shape_of({"--time-ranks", "2"}), std::pair(2, 2));
  EXPECT_EQ(shape_of({"--data-ranks", "4"}), std::pair(1, 4));
  EXPECT_EQ(shape_of({"--data-ranks", "2", "--time-ranks", "2"}), std::pair(2, 2));
}

TEST(RunPlan, EveryReplicaNeedsAMicroBatch) {
  expect_input_error(
      [] {
        plan_of({"--data-ranks", "4", "--micro-batches", "2"}, 4);
      },
      {"--data-ranks 4", "--micro-batches 4 would do"});
  expect_input_error(
      [] {
        plan_of({"--data-ranks", "4", "--batch-size", "3"}, 4);
      },
      {"--data-ranks 4", "3 images"});
}

TEST(RunPlan, MoreMicroBatchesThanASumMayHaveAreRefused) {
  expect_input_error(
      [] {
        plan_of({"--batch-size", "5000", "--micro-batches", "5000"});
      },
      {"--micro-batches 5000", "4096"});
}

TEST(RunPlan, AModelIsNamedByItsOptions) {
  EXPECT_EQ(model_name(parse({})), "hamiltonian-74-synthetic");
  EXPECT_EQ(model_name(parse({"--arch", "leapfrog", "--blocks", "2,1,1"})),
            "leapfrog-10-synthetic");
}

}  // namespace
}  // namespace revode
