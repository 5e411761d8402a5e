// The operations that speeds are given in.
#include "revode/model/convolution_count.hpp"

#include <gtest/gtest.h>

namespace revode {
namespace {

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
