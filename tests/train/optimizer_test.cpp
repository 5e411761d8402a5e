// The rate over epochs and steps, and steps of SGD whose numbers can be followed by hand.
#include "revode/train/optimizer.hpp"

#include <vector>

#include <gtest/gtest.h>

namespace revode {
namespace {

TEST(RatePolicy, StaysAtTheBaseWithoutDecayOrWarmUp) {
  const RatePolicy policy{.base = 0.3, .decay = 0.1, .decay_epochs = {}, .warmup_epochs = 0};
  EXPECT_EQ(policy.at(0, 0, 10), 0.3);
  EXPECT_EQ(policy.at(999, 9, 10), 0.3);
}

TEST(RatePolicy, DecaysFromEachDecayEpochOn) {
  const RatePolicy policy{.base = 0.5, .decay = 0.25, .decay_epochs = {2, 5}, .warmup_epochs = 0};
  EXPECT_EQ(policy.at(1, 9, 10), 0.5);
  EXPECT_EQ(policy.at(2, 0, 10), 0.125);
  EXPECT_EQ(policy.at(4, 9, 10), 0.125);
  EXPECT_EQ(policy.at(5, 0, 10), 0.03125);
  EXPECT_EQ(policy.at(1000, 0, 10), 0.03125);
}

TEST(RatePolicy, RisesByEqualAmountsToTheBaseOverTheWarmUp) {
  const RatePolicy policy{.base = 1, .decay = 0.5, .decay_epochs = {}, .warmup_epochs = 2};
  EXPECT_EQ(policy.at(0, 0, 4), 0.125);  // 1/8 of the way after the first of 2 * 4 steps
  EXPECT_EQ(policy.at(0, 3, 4), 0.5);
  EXPECT_EQ(policy.at(1, 0, 4), 0.625);
  EXPECT_EQ(policy.at(1, 3, 4), 1);
  EXPECT_EQ(policy.at(2, 0, 4), 1);
}

TEST(RatePolicy, WarmUpAndDecayMultiply) {
  const RatePolicy policy{.base = 1, .decay = 0.5, .decay_epochs = {1}, .warmup_epochs = 2};
  EXPECT_EQ(policy.at(0, 1, 2), 0.5);
  EXPECT_EQ(policy.at(1, 1, 2), 0.5);
  EXPECT_EQ(policy.at(1, 0, 2), 0.375);
}

Architecture tiny_network() {
  ArchitectureOptions options;
  options.arch = "leapfrog";
  options.blocks = {1};
  options.widths = {1};
  options.image_height = options.image_width = 4;
  options.num_classes = 2;
  return Architecture(options);
}

// v <- m v + s g; theta <- theta - r v with m = 1/2, s = 1/4, r = 1/8: every number is exact.
TEST(SgdStep, TwoStepsGiveTheNumbersOfTheFormula) {
  const Architecture architecture = tiny_network();
  const ParameterMap map(architecture, {0, 1});
  const auto backend = make_reference_backend<float>();
  std::vector<float> values(map.size(), 3), velocity(map.size(), 0), gradient(map.size(), 8);

  sgd_step(*backend, map, {0.125, 0.5, 0.25}, gradient.data(), velocity.data(), values.data());
  const std::size_t at = map.closing_weight.offset;
  EXPECT_EQ(velocity[at], 2);
  EXPECT_EQ(values[at], 2.75f);

  gradient.assign(map.size(), -4);
  sgd_step(*backend, map, {0.125, 0.5, 0.25}, gradient.data(), velocity.data(), values.data());
  for (const ParameterEntry* entry : map.entries()) {
    for (std::size_t i = entry->offset; i < entry->offset + entry->size(); ++i) {
      EXPECT_EQ(velocity[i], 0) << entry->name;  // 1 - 1
      EXPECT_EQ(values[i], entry->trainable ? 2.75f : 3) << entry->name;
    }
  }
}

TEST(SgdStep, LeavesWhatIsNotTrainedAlone) {
  const Architecture architecture = tiny_network();
  const ParameterMap map(architecture, {0, 1});
  const auto backend = make_reference_backend<float>();
  std::vector<float> values(map.size(), 3), velocity(map.size(), 1), gradient(map.size(), 1);

  sgd_step(*backend, map, {1, 1, 1}, gradient.data(), velocity.data(), values.data());

  for (const ParameterEntry* entry :
       {&map.input_mean, &map.input_std, &map.opening_norm.mean, &map.opening_norm.variance,
        &map.closing_norm.mean, &map.closing_norm.variance}) {
    EXPECT_EQ(values[entry->offset], 3) << entry->name;
    EXPECT_EQ(velocity[entry->offset], 1) << entry->name;
  }
  for (const ParameterEntry* entry :
       {&map.opening_kernel, &map.opening_norm.scale, &map.opening_norm.shift,
        &map.stages[0].kernel, &map.stages[0].bias, &map.closing_weight, &map.closing_bias}) {
    EXPECT_EQ(values[entry->offset], 1) << entry->name;
    EXPECT_EQ(velocity[entry->offset], 2) << entry->name;
  }
}

}  // namespace
}  // namespace revode
