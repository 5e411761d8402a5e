#include "revode/train/work_balance.hpp"

#include <gtest/gtest.h>

namespace revode {
namespace {

TEST(WorkBalance, BubbleIsWhatWorkLeavesOfTheRanksTime) {
  const WorkBalance balance{.num_steps = 16,
                            .step_seconds = 10,
                            .work_seconds = {8, 4, 6, 6},
                            .waiting_seconds = {1, 5, 3, 3}};

  EXPECT_DOUBLE_EQ(balance.bubble(), 0.4);
  EXPECT_EQ(WorkBalance{}.bubble(), 0);
}

TEST(WorkBalance, SlowestRankIsNamedWhereItExceedsTheOthersByMoreThanATenth) {
  const auto slowest_of = [](std::vector<double> work) {
    return WorkBalance{
        .num_steps = 1, .step_seconds = 10, .work_seconds = std::move(work), .waiting_seconds = {}}
        .slowest();
  };

  ASSERT_TRUE(slowest_of({4, 4, 6, 4}).has_value());
  EXPECT_EQ(slowest_of({4, 4, 6, 4})->rank, 2);
  EXPECT_DOUBLE_EQ(slowest_of({4, 4, 6, 4})->excess, 0.5);
  EXPECT_TRUE(slowest_of({10, 11.1}).has_value());
  EXPECT_FALSE(slowest_of({10, 10.9}).has_value());
  EXPECT_FALSE(slowest_of({5}).has_value());
  EXPECT_FALSE(slowest_of({0, 0}).has_value());
}

TEST(WorkBalance, LinesNameRankAndHost) {
  const WorkBalance balance{
      .num_steps = 16, .step_seconds = 10, .work_seconds = {4, 8}, .waiting_seconds = {5.25, 0.5}};

  const std::string text = balance_lines(balance, {.bubble = 0.2, .seconds = 0.75}, {"n1", "n2"});

  EXPECT_NE(text.find("625.0 ms on average; the simulation predicts 750.0 ms"), std::string::npos);
  EXPECT_NE(text.find("40.0% of the ranks' time; the simulation predicts 20.0%"),
            std::string::npos);
  EXPECT_NE(text.find("5.25, 0.50 s"), std::string::npos);
  EXPECT_NE(text.find("rank 1 on n2: works 100% longer"), std::string::npos);
}

}  // namespace
}  // namespace revode
