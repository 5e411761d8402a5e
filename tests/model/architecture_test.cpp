// From options to shapes: depth arithmetic, parameter counts, and what is refused.
#include "revode/model/architecture.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/error_text.hpp"

namespace revode {
namespace {

using Numbers = std::vector<int>;

ArchitectureOptions options(const std::string& arch, std::optional<int> depth = {}) {
  ArchitectureOptions result;
  result.arch = arch;
  result.depth = depth;
  return result;
}

Architecture make(const std::string& arch, int depth) { return Architecture(options(arch, depth)); }

/// The input error of these options, which must hold every one of `parts`.
void expect_refusal(const ArchitectureOptions& refused, const std::vector<std::string>& parts) {
  const std::string text =
      error_text(ExitStatus::bad_input, [&] { const Architecture network(refused); });
  EXPECT_NE(text, "") << "was taken";
  for (const std::string& part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in: " << text;
}

TEST(Architecture, Hamiltonian74IsThatOfThePaper) {
  const Architecture network(options("hamiltonian"));

  EXPECT_EQ(network.depth(), 74);
  EXPECT_EQ(network.blocks(), (Numbers{7, 6, 5}));
  EXPECT_EQ(network.widths(), (Numbers{32, 64, 112}));
  EXPECT_EQ(network.num_parameters(), 428'538);
}

TEST(Architecture, Hamiltonian218IsThatOfThePaper) {
  const Architecture network = make("hamiltonian", 218);

  EXPECT_EQ(network.blocks(), (Numbers{19, 18, 17}));
  EXPECT_EQ(network.widths(), (Numbers{32, 64, 128}));
  EXPECT_EQ(network.num_parameters(), 1'679'114);
}

TEST(Architecture, Hamiltonian1202IsThatOfThePaper) {
  const Architecture network = make("hamiltonian", 1202);

  EXPECT_EQ(network.blocks(), (Numbers{101, 100, 99}));
  EXPECT_EQ(network.num_parameters(), 9'632'458);
}

TEST(Architecture, LeapfrogAndMidpointBlocksCountForTwo) {
  for (const std::string arch : {"leapfrog", "midpoint"}) {
    EXPECT_EQ(make(arch, 26).blocks(), (Numbers{5, 4, 3}));
    EXPECT_EQ(make(arch, 62).blocks(), (Numbers{11, 10, 9}));
    EXPECT_EQ(make(arch, 14).blocks(), (Numbers{3, 2, 1}));
  }
}

// 10 blocks: 4, 3, 3, then one from the last to the first; 11: 4, 4, 3.
TEST(Architecture, TheRemainderGoesToTheEarlierStages) {
  EXPECT_EQ(make("leapfrog", 22).blocks(), (Numbers{5, 3, 2}));
  EXPECT_EQ(make("leapfrog", 24).blocks(), (Numbers{5, 4, 2}));
  EXPECT_EQ(make("hamiltonian", 26).blocks(), (Numbers{3, 2, 1}));
}

TEST(Architecture, BlocksSetTheStagesDirectly) {
  ArchitectureOptions given = options("hamiltonian");
  given.blocks = {1, 5, 2};

  const Architecture network(given);

  EXPECT_EQ(network.blocks(), given.blocks);
  EXPECT_EQ(network.depth(), 2 + 4 * 8);
  EXPECT_EQ(network.num_couplings(), 16);
}

TEST(Architecture, OneStageKeepsAllItsBlocks) {
  ArchitectureOptions given = options("midpoint", 6);
  given.widths = {8};

  const Architecture network(given);

  EXPECT_EQ(network.blocks(), Numbers{2});
  given.depth = 4;
  EXPECT_EQ(Architecture(given).blocks(), Numbers{1});
  given.depth = 2;
  expect_refusal(given, {"--depth 2", "smallest is 4"});
}

TEST(Architecture, DefaultWidthsGrowAtDepth100) {
  EXPECT_EQ(make("leapfrog", 98).widths(), (Numbers{32, 64, 112}));
  EXPECT_EQ(make("leapfrog", 100).widths(), (Numbers{32, 64, 128}));
}

TEST(Architecture, ADepthBetweenBlocksNamesTheNearestTwo) {
  expect_refusal(options("hamiltonian", 73), {"--depth 73", "70", "74"});
  expect_refusal(options("midpoint", 27), {"--depth 27", "26", "28"});
}

TEST(Architecture, ADepthWithoutABlockForEveryStageNamesTheSmallest) {
  expect_refusal(options("hamiltonian", 22), {"--depth 22", "26"});
  expect_refusal(options("leapfrog", 12), {"--depth 12", "14"});
  expect_refusal(options("midpoint", -5), {"--depth -5", "14"});
}

TEST(Architecture, WhatContradictsItselfIsRefused) {
  ArchitectureOptions given = options("hamiltonian", 74);
  given.blocks = {1, 1, 1};
  expect_refusal(given, {"--depth 74", "--blocks 1,1,1", "14"});

  given = options("hamiltonian");
  given.blocks = {1, 1};
  given.widths = {8, 16, 32};
  expect_refusal(given, {"--blocks 1,1", "--widths 8,16,32"});

  given = options("hamiltonian");
  given.blocks = {1, 1};
  expect_refusal(given, {"--blocks 1,1", "--widths"});
}

TEST(Architecture, EveryStageNeedsABlock) {
  ArchitectureOptions given = options("hamiltonian");
  given.blocks = {3, 0, 2};

  expect_refusal(given, {"--blocks 3,0,2", "at least one"});
}

TEST(Architecture, WidthsThatDoNotFitAreRefused) {
  ArchitectureOptions given = options("hamiltonian");
  given.widths = {8, 9, 10};
  expect_refusal(given, {"--widths 8,9,10", "9 must be even"});
  given.arch = "leapfrog";
  EXPECT_EQ(Architecture(given).widths(), given.widths);
  given.widths = {16, 8, 8};
  expect_refusal(given, {"--widths 16,8,8", "8 follows 16"});
  given.widths = {0, 8, 8};
  expect_refusal(given, {"--widths 0,8,8"});
}

TEST(Architecture, WhatCannotBeMeantIsRefusedBeforeItIsMade) {
  ArchitectureOptions given = options("hamiltonian");
  given.blocks = {1'000'000'000, 1'000'000'000, 1'000'000'000};  // more than an int in all
  expect_refusal(given, {"--blocks 1000000000,", "3000000000 blocks", "at most 1000000"});
  given.blocks = {1, 999'999, 1};
  expect_refusal(given, {"1000001 blocks"});

  given = options("hamiltonian");
  given.widths = {100'000, 100'000, 100'000};
  expect_refusal(given, {"--widths 100000,100000,100000", "8.1e+11 parameters", "at most 1e+11"});
  given.widths = {8, 8, 100'000'000};
  expect_refusal(given, {"--widths 8,8,100000000", "found 100000000", "at most 1000000"});
  given.widths = {2, 2, 2'147'483'646};
  expect_refusal(given, {"2147483646"});
  given.blocks = {300'000, 300'000, 300'000};
  given.widths = {1'000'000, 1'000'000, 1'000'000};  // more parameters than a 64-bit integer holds
  expect_refusal(given, {"4.05e+18 parameters"});
  given.widths = Numbers(100'000, 8);
  expect_refusal(given, {"--widths", "100000 stages"});
  given.widths = {};
  given.blocks = Numbers(100'000, 8);
  expect_refusal(given, {"--blocks", "100000 stages"});

  expect_refusal(options("hamiltonian", 2'000'000'002),
                 {"--depth 2000000002", "500000000", "4000002"});
  expect_refusal(options("hamiltonian", 2'147'483'647), {"--depth 2147483647", "4000002"});
  expect_refusal(options("midpoint", 2'147'483'646), {"--depth 2147483646", "2000002"});
}

TEST(Architecture, ItsLargestNetworksHaveCountsThatFit) {
  ArchitectureOptions given = options("leapfrog");
  given.blocks = {1, 999'998, 1};
  given.widths = {8, 8, 16};
  const Architecture deep(given);
  EXPECT_EQ(deep.num_blocks(), 1'000'000);
  EXPECT_EQ(deep.num_parameters(), 27 * 8 + 16 + 999'999 * (9 * 64 + 8) + 9 * 256 + 16 + 32 + 170);

  given.blocks = {1, 1, 1};
  given.widths = {1, 1, 100'000};
  const Architecture wide(given);
  EXPECT_GT(wide.num_parameters(), 90'000'000'000);
  EXPECT_EQ(wide.block_cost(2), 8 * 9 * 10'000'000'000 * 64);
}

TEST(Architecture, AnImageThatCannotBeHalvedIsRefused) {
  ArchitectureOptions given = options("hamiltonian");
  given.image_height = 6;  // 3 after the first transition
  expect_refusal(given, {"6 x 32", "4 divides", "--image-size", "--widths"});
  given.image_height = 4;
  EXPECT_EQ(Architecture(given).stages().back().height, 1);
}

TEST(Architecture, AnUnknownNameListsTheKnownOnes) {
  expect_refusal(options("resnet"), {"resnet", "hamiltonian", "leapfrog", "midpoint"});
  EXPECT_EQ(architecture_names(),
            (std::vector<std::string>{"hamiltonian", "leapfrog", "midpoint"}));
}

TEST(Architecture, StagesFollowFromOneAnother) {
  const Architecture network(options("hamiltonian"));
  const std::vector<Stage>& stages = network.stages();

  ASSERT_EQ(stages.size(), 3u);
  EXPECT_EQ(stages[1].channels, 32);
  EXPECT_EQ(stages[1].height, 16);
  EXPECT_EQ(stages[1].couplings, 12);
  EXPECT_EQ(stages[1].first_coupling, 14);
  EXPECT_EQ(stages[2].first_coupling, 26);
  EXPECT_EQ(network.stage_of_block(6), 0);
  EXPECT_EQ(network.stage_of_block(7), 1);
  EXPECT_EQ(network.stage_of_block(17), 2);
  EXPECT_EQ(Architecture(options("midpoint")).stages()[1].channels, 64);
}

// P <- P + h F(Q), then Q <- Q - h F(P); Q' = 2 Q - P - h^2 F(Q); Q' = P + 2 h F(Q).
TEST(Architecture, SegmentsAreTheLinesOfTheArchitecture) {
  ArchitectureOptions given = options("hamiltonian");
  given.step_size = 0.5;
  SegmentShape line = Architecture(given).segment(0, 0, 4);
  EXPECT_EQ(line.force, Force::symmetric);
  EXPECT_EQ(line.gamma, 1);
  EXPECT_EQ(line.beta, 0);
  EXPECT_EQ(line.scale, (std::array{0.5, -0.5}));
  EXPECT_EQ(line.first_target, 0);
  given.arch = "leapfrog";
  line = Architecture(given).segment(0, 0, 4);
  EXPECT_EQ(line.force, Force::symmetric);
  EXPECT_EQ(line.gamma, -1);
  EXPECT_EQ(line.beta, 2);
  EXPECT_EQ(line.scale, (std::array{-0.25, -0.25}));
  given.arch = "midpoint";
  line = Architecture(given).segment(0, 0, 4);
  EXPECT_EQ(line.force, Force::antisymmetric);
  EXPECT_EQ(line.gamma, 1);
  EXPECT_EQ(line.beta, 0);
  EXPECT_EQ(line.scale, (std::array{1.0, 1.0}));
}

// The older state stands in slot 0 at the opening and changes place with each coupling, across
// stages too.
TEST(Architecture, TargetsAlternateThroughTheWholeNetwork) {
  ArchitectureOptions given = options("leapfrog");
  given.blocks = {3, 2, 2};
  const Architecture network(given);

  EXPECT_EQ(network.segment(0, 0, 3).first_target, 0);
  EXPECT_EQ(network.segment(0, 1, 2).first_target, 1);
  EXPECT_EQ(network.segment(1, 0, 2).first_target, 1);
  EXPECT_EQ(network.segment(2, 1, 1).first_target, 0);
  EXPECT_EQ(network.opening_features().slot, 1);
  EXPECT_EQ(network.closing_features().slot, 0);  // seven couplings: the last changed slot 0
  EXPECT_TRUE(Architecture(options("hamiltonian")).closing_features().joined);
}

TEST(Architecture, CostsFollowTheConvolutions) {
  const Architecture network(options("hamiltonian"));

  // two couplings of 8 convolutions, 9 * 16^2 multiply-adds a pixel
  EXPECT_EQ(network.block_cost(0), 2 * 8 * 9 * 16 * 16 * 1024);
  EXPECT_EQ(network.block_cost(17), 2 * 8 * 9 * 56 * 56 * 64);
  EXPECT_EQ(Architecture(options("midpoint")).block_cost(0), 4 * 9 * 32 * 32 * 1024);
  EXPECT_GT(network.opening_cost(), 0);
  EXPECT_GT(network.closing_cost(), 0);
}

}  // namespace
}  // namespace revode
