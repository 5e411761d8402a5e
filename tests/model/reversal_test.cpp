// Exact reversal of very deep, very narrow networks, and what is said where its range is left.
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "support/slice_chain.hpp"

namespace revode {
namespace {

Architecture make(const std::string& arch, int depth, double step_size, int grid_bits = 16) {
  ArchitectureOptions options;
  options.arch = arch;
  const int blocks = (depth - 2) / architecture_rule(arch).convolutions_per_block;
  options.blocks = {blocks - blocks / 2, blocks / 2};
  options.widths = {4, 4};
  options.step_size = step_size;
  options.grid_bits = grid_bits;
  options.image_height = options.image_width = 4;
  options.num_classes = 3;
  return Architecture(options);
}

// Steps and an opening (its norm's scale) with which the states stay below 2^(24 - 16) = 256 while
// most increments stay above the grid, over 10,002 layers. Leapfrog starts from Y_{-1} = 0, that is
// with the velocity Y_0, and drifts where no ReLU is open: 5,000 steps of 0.02 are 100. Midpoint's
// force is never negative: exponential growth with 2 h a step.
struct Range {
  double step_size;
  float opening_scale;
};
Range exact_range(const std::string& arch) {
  if (arch == "hamiltonian") return {0.01, 1};
  if (arch == "leapfrog") return {0.05, 1.0f / 128};
  return {2e-4, 1};
}

void scale_opening(SliceChain<float>& chain, float factor) {
  Share<float>& part = chain.part();
  part.values().fetch();
  const std::span<float> values = part.values().host();
  for (const ParameterEntry* entry :
       {&part.map().opening_norm.scale, &part.map().opening_norm.shift})
    for (std::size_t i = 0; i < entry->size(); ++i) values[entry->offset + i] *= factor;
  part.values().store();
  part.slice().load_weights();
}

class Reversal : public testing::TestWithParam<std::tuple<std::string, std::string, int>> {};

INSTANTIATE_TEST_SUITE_P(Deep, Reversal,
                         testing::Combine(testing::ValuesIn(architecture_names()),
                                          testing::ValuesIn(usable_backend_names()),
                                          testing::Values(1202, 10'002)),
                         [](const auto& of) {
                           return std::get<0>(of.param) + "_" + std::get<1>(of.param) + "_" +
                                  std::to_string(std::get<2>(of.param));
                         });

TEST_P(Reversal, MeetsEveryBitOfTheForwardSweep) {
  const auto [arch, backend_name, depth] = GetParam();
  const Range range = exact_range(arch);
  const Architecture network = make(arch, depth, range.step_size);
  ASSERT_EQ(network.depth(), depth);
  const auto backend = make_backend(backend_name, 1);
  const TestBatch<float> batch(network, {1, 1});
  SliceChain<float> chain(network, *backend);
  scale_opening(chain, range.opening_scale);
  chain.part().slice().measure_reversal();

  const double loss = chain.train(batch);

  const Comparison reversal = chain.part().slice().reversal();
  const RangeCounts counts = chain.range_counts();
  EXPECT_TRUE(std::isfinite(loss));
  EXPECT_EQ(counts.out_of_range, 0);
  // or states would hardly have moved: increments are one a value of the target and coupling
  const std::int64_t values_a_coupling = 2 * network.stages()[0].channels * (16 + 4) / 2;
  EXPECT_LT(counts.rounded_to_zero, values_a_coupling * network.num_couplings() / 4);
  EXPECT_EQ(reversal.num_values, 2 * 2 * network.stages()[0].channels * 16);
  EXPECT_EQ(reversal.num_differing, 0);
  EXPECT_EQ(reversal.squared_error, 0);
  EXPECT_GT(reversal.squared_norm, 0);
}

class OrdinarySteps : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(WithoutAGrid, OrdinarySteps, testing::ValuesIn(architecture_names()),
                         [](const auto& arch) { return arch.param; });

// What the grid is for, and the proof that the test above has something to find.
TEST_P(OrdinarySteps, MissBitsOfTheForwardSweep) {
  const Range range = exact_range(GetParam());
  const Architecture network = make(GetParam(), 1202, range.step_size, 0);
  const auto backend = make_cpu_backend(1);
  SliceChain<float> chain(network, *backend);
  scale_opening(chain, range.opening_scale);
  chain.part().slice().measure_reversal();

  chain.train(TestBatch<float>(network, {1, 1}));

  EXPECT_GT(chain.part().slice().reversal().num_differing, 0);
}

class RangeLeft : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Architectures, RangeLeft, testing::ValuesIn(architecture_names()),
                         [](const auto& arch) { return arch.param; });

// A step and a depth that take states past 256: each line goes on as an ordinary float step there.
// Midpoint grows so fast that a deeper one would leave the range of float itself.
Architecture leaving(const std::string& arch) {
  return make(arch, arch == "midpoint" ? 162 : 1002, 0.3);
}

TEST_P(RangeLeft, IsCountedAndTrainingGoesOn) {
  const Architecture network = leaving(GetParam());
  const auto backend = make_reference_backend<float>();
  const TestBatch<float> batch(network, {1, 1});
  SliceChain<float> chain(network, *backend);
  chain.part().slice().measure_reversal();

  const double loss = chain.train(batch);

  EXPECT_GT(chain.range_counts().out_of_range, 0);
  EXPECT_TRUE(std::isfinite(loss));
  for (const float value : chain.gradient()) ASSERT_TRUE(std::isfinite(value));
  EXPECT_GT(chain.part().slice().reversal().num_differing, 0);
}

TEST_P(RangeLeft, IsNotCountedInEvaluation) {
  const Architecture network = leaving(GetParam());
  const auto backend = make_reference_backend<float>();
  SliceChain<float> chain(network, *backend);
  const TestBatch<float> batch(network, {2});

  chain.forward(batch, Mode::evaluate);
  EXPECT_EQ(chain.range_counts().out_of_range, 0);
  chain.forward(batch, Mode::inspect);
  EXPECT_EQ(chain.range_counts().out_of_range, 0);
}

}  // namespace
}  // namespace revode
