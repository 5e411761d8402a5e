// A record of a sweep: nothing changes by being looked at, and states are seen to come back.
#include "revode/analysis/depth_record.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "analysis/recorded_network.hpp"

namespace revode {
namespace {

class DepthRecordOf : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Architectures, DepthRecordOf, testing::ValuesIn(architecture_names()),
                         [](const auto& arch) { return arch.param; });

std::vector<BlockEdge> edges() { return {{0}, {1}, {2}, {2, true}, {3}, {4}, {4, true}}; }

TEST_P(DepthRecordOf, ChangesNoBitOfTheSweep) {
  RecordedNetwork recorded(GetParam(), "reference");
  SliceChain<float> plain(recorded.architecture, *recorded.backend);

  plain.train(TestBatch<float>(recorded.architecture, {RecordedNetwork::num_images}));

  EXPECT_EQ(num_differing(recorded.chain.gradient(), plain.gradient()), 0u);
  EXPECT_EQ(num_differing(recorded.chain.logits(), plain.logits()), 0u);
}

TEST_P(DepthRecordOf, SeesStatesComeBackBitForBitOnTheGrid) {
  for (const std::string& name : test_backend_names()) {
    RecordedNetwork network(GetParam(), name);
    for (const BlockEdge edge : edges()) {
      const Comparison& reversal = network.record.reversal(edge);
      EXPECT_EQ(reversal.num_differing, 0) << name << ", block " << edge.block;
      EXPECT_GT(reversal.squared_norm, 0) << name << ", block " << edge.block;
    }
  }
}

TEST_P(DepthRecordOf, SeesThemComeBackNearlyWithoutTheGrid) {
  RecordedNetwork network(GetParam(), "reference", 0);

  std::int64_t differing = 0;
  for (const BlockEdge edge : edges()) {
    const Comparison& reversal = network.record.reversal(edge);
    differing += reversal.num_differing;
    EXPECT_LT(reversal.squared_error, 1e-10 * reversal.squared_norm);
  }
  EXPECT_GT(differing, 0);
}

// The state behind a block is what its couplings make of the one in front.
TEST_P(DepthRecordOf, HoldsTheStatesOfEachImage) {
  RecordedNetwork network(GetParam(), "reference");
  const Architecture& architecture = network.architecture;
  Share<float>& share = network.chain.part();
  const int couplings = architecture.rule().couplings_per_block;
  const auto segment =
      network.backend->make_segment(architecture.segment(0, 0, architecture.stages()[0].couplings));
  const ParameterMap::StageEntries& arrays = share.map().stages[0];
  segment->bind(
      {share.values().data() + arrays.kernel.offset, share.values().data() + arrays.bias.offset});
  segment->load_weights();

  for (int image = 0; image < RecordedNetwork::num_images; ++image) {
    std::vector<float> state = network.record.state({1}, image);
    segment->advance({couplings, 3 * couplings},
                     {{state.data(), state.data() + state.size() / 2}, 1}, nullptr, nullptr);

    EXPECT_EQ(num_differing(state, network.record.state({2, true}, image)), 0u) << image;
  }
}

TEST_P(DepthRecordOf, HoldsTheNormsOfTheAdjoints) {
  RecordedNetwork network(GetParam(), "reference");

  for (const BlockEdge edge : edges())
    for (int image = 0; image < RecordedNetwork::num_images; ++image)
      EXPECT_GT(network.record.adjoint_norm(edge, image), 0) << edge.block;
}

}  // namespace
}  // namespace revode
