// What is told of repeated measurements.
#include "revode/core/spread.hpp"

#include <gtest/gtest.h>

namespace revode {
namespace {

TEST(Spread, TakesQuartilesBetweenNeighbours) {
  const Spread spread = spread_of({4, 1, 2, 8});

  EXPECT_EQ(spread.lowest, 1);
  EXPECT_EQ(spread.lower_quartile, 1.75);
  EXPECT_EQ(spread.median, 3);
  EXPECT_EQ(spread.upper_quartile, 5);
  EXPECT_EQ(spread.highest, 8);
  EXPECT_EQ(spread.mean, 3.75);
}

TEST(Spread, OfOneValueIsThatValue) {
  const Spread spread = spread_of({3});

  for (const double each : {spread.lowest, spread.lower_quartile, spread.median,
                            spread.upper_quartile, spread.highest, spread.mean})
    EXPECT_EQ(each, 3);
}

}  // namespace
}  // namespace revode
