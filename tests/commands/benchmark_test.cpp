// What the bench command counts and how it sums up; what it reports as a whole is bench_test.py's.
#include "commands/benchmark.hpp"

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

TEST(ConvolutionCount, IsEightOrSixForTwoKernelsAndHalfThatForOne) {
  for (const Activations activations : {Activations::reverse, Activations::store}) {
    const bool stored = activations == Activations::store;
    const ConvolutionCount two = convolutions_of_coupling(Force::symmetric, activations);
    const ConvolutionCount one = convolutions_of_coupling(Force::antisymmetric, activations);

    EXPECT_EQ(two.forward, 2);
    EXPECT_EQ(two.forward + two.back, stored ? 6 : 8);
    EXPECT_EQ(one.forward, 1);
    EXPECT_EQ(one.forward + one.back, stored ? 3 : 4);
  }
}

TEST(ConvolutionCount, CountsTwoOperationsAProduct) {
  const SegmentShape shape{.channels = 16, .height = 32, .width = 8};

  EXPECT_EQ(convolution_flops(shape), 2.0 * 9 * 16 * 16 * 32 * 8);
}

}  // namespace
}  // namespace revode
