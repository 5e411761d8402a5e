// The arrays of the network: order and shapes of the checkpoint, rows of slices, initial values.
#include "revode/model/parameters.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace revode {
namespace {

Architecture network_of(const std::string& arch, std::vector<int> blocks = {3, 2},
                        std::vector<int> widths = {4, 8}) {
  ArchitectureOptions options;
  options.arch = arch;
  options.blocks = std::move(blocks);
  options.widths = std::move(widths);
  options.image_height = options.image_width = 8;
  options.num_classes = 5;
  return Architecture(options);
}

BlockRange all_of(const Architecture& network) { return {0, network.num_blocks()}; }

TEST(ParameterMap, ArraysAreThoseOfTheCheckpointInItsOrder) {
  const Architecture network = network_of("hamiltonian");
  const ParameterMap map(network, all_of(network));
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> got;
  for (const ParameterEntry* entry : map.entries()) got.emplace_back(entry->name, entry->shape);

  const decltype(got) expected{{"input/mean", {3}},
                               {"input/std", {3}},
                               {"opening/kernel", {4, 3, 3, 3}},
                               {"opening/norm/scale", {4}},
                               {"opening/norm/shift", {4}},
                               {"opening/norm/mean", {4}},
                               {"opening/norm/variance", {4}},
                               {"stage_1/kernel", {6, 2, 2, 3, 3}},
                               {"stage_1/bias", {6, 2}},
                               {"stage_2/kernel", {4, 4, 4, 3, 3}},
                               {"stage_2/bias", {4, 4}},
                               {"closing/norm/scale", {8}},
                               {"closing/norm/shift", {8}},
                               {"closing/norm/mean", {8}},
                               {"closing/norm/variance", {8}},
                               {"closing/weight", {5, 8}},
                               {"closing/bias", {5}}};
  EXPECT_EQ(got, expected);
}

TEST(ParameterMap, OneCouplingABlockOfTheFullWidthWithoutHalves) {
  const Architecture network = network_of("midpoint", {3, 2}, {4, 7});
  const ParameterMap map(network, all_of(network));

  EXPECT_EQ(map.stages[0].kernel.shape, (std::vector<std::int64_t>{3, 4, 4, 3, 3}));
  EXPECT_EQ(map.stages[1].bias.shape, (std::vector<std::int64_t>{2, 7}));
  EXPECT_EQ(map.closing_weight.shape, (std::vector<std::int64_t>{5, 7}));
}

TEST(ParameterMap, TrainableArraysMakeUpTheParameterCount) {
  for (const std::string& arch : architecture_names()) {
    const Architecture network = network_of(arch);
    const ParameterMap map(network, all_of(network));
    std::size_t count = 0;
    for (const ParameterEntry* entry : map.entries()) count += entry->trainable * entry->size();

    EXPECT_EQ(count, static_cast<std::size_t>(network.num_parameters())) << arch;
  }
}

TEST(ParameterMap, KernelsAndTheFullyConnectedWeightDecay) {
  const Architecture network = network_of("leapfrog");
  const ParameterMap map(network, all_of(network));

  for (const ParameterEntry* entry : map.entries()) {
    const bool expected = entry->name.ends_with("kernel") || entry->name == "closing/weight";
    EXPECT_EQ(entry->decayed, expected) << entry->name;
  }
}

TEST(ParameterMap, EntriesFillTheFlatArrayWithoutGapsOrOverlap) {
  const Architecture network = network_of("hamiltonian");
  for (const BlockRange range : {BlockRange{0, 5}, BlockRange{1, 4}, BlockRange{3, 4}}) {
    const ParameterMap map(network, range);
    std::size_t offset = 0;
    for (const ParameterEntry* entry : map.entries()) {
      EXPECT_EQ(entry->offset, offset) << entry->name;
      offset += entry->size();
    }
    EXPECT_EQ(map.size(), offset);
  }
}

// Every row of every array is held by exactly one slice, and rows ascend with the slices.
TEST(ParameterMap, SlicesPartitionTheRows) {
  for (const std::string& arch : architecture_names()) {
    const Architecture network = network_of(arch);
    for (const std::vector<int>& cuts :
         {std::vector{0, 5}, {0, 2, 5}, {0, 3, 5}, {0, 1, 4, 5}, {0, 1, 2, 3, 4, 5}}) {
      std::map<std::string, std::int64_t> next_row;
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        const ParameterMap map(network, {cuts[i], cuts[i + 1]});
        for (const ParameterEntry* entry : map.entries()) {
          if (entry->num_rows == 0) continue;
          EXPECT_EQ(entry->first_row, next_row[entry->name]) << entry->name;
          next_row[entry->name] += entry->num_rows;
        }
      }
      const ParameterMap whole(network, all_of(network));
      for (const ParameterEntry* entry : whole.entries())
        EXPECT_EQ(next_row[entry->name], entry->shape.front()) << entry->name;
    }
  }
}

TEST(ParameterMap, OpeningIsTheFirstSlicesAndClosingTheLasts) {
  const Architecture network = network_of("hamiltonian");
  const ParameterMap first(network, {0, 2}), middle(network, {2, 4}), last(network, {4, 5});

  EXPECT_GT(first.opening_kernel.num_rows, 0);
  EXPECT_GT(first.input_mean.num_rows, 0);
  EXPECT_EQ(first.closing_weight.num_rows, 0);
  EXPECT_EQ(middle.opening_kernel.num_rows + middle.closing_weight.num_rows, 0);
  EXPECT_EQ(last.opening_kernel.num_rows, 0);
  EXPECT_GT(last.closing_norm.variance.num_rows, 0);
}

std::vector<float> initial_values(const ParameterMap& map, const Architecture& network,
                                  std::uint64_t seed) {
  std::vector<float> values(map.size(), 99.0f);
  initialise(network, map, seed, values.data());
  return values;
}

TEST(Initialise, DoesNotDependOnTheCut) {
  const Architecture network = network_of("hamiltonian");
  const ParameterMap whole(network, all_of(network));
  const std::vector<float> expected = initial_values(whole, network, 3);
  std::map<std::string, const ParameterEntry*> of_whole;
  for (const ParameterEntry* entry : whole.entries()) of_whole[entry->name] = entry;

  for (const BlockRange range : {BlockRange{0, 1}, BlockRange{1, 4}, BlockRange{4, 5}}) {
    const ParameterMap map(network, range);
    const std::vector<float> values = initial_values(map, network, 3);
    for (const ParameterEntry* entry : map.entries()) {
      const float* row =
          expected.data() + of_whole[entry->name]->offset + entry->first_row * entry->row_size();
      EXPECT_TRUE(std::equal(row, row + entry->size(), values.data() + entry->offset))
          << entry->name;
    }
  }
}

TEST(Initialise, SeedsAndCouplingsDrawDifferentKernels) {
  const Architecture network = network_of("hamiltonian");
  const ParameterMap map(network, all_of(network));
  const std::vector<float> one = initial_values(map, network, 1);
  const std::vector<float> two = initial_values(map, network, 2);
  const ParameterEntry& kernel = map.stages[0].kernel;
  const auto row = [&](const std::vector<float>& values, std::int64_t index) {
    const float* begin = values.data() + kernel.offset + index * kernel.row_size();
    return std::vector<float>(begin, begin + kernel.row_size());
  };

  EXPECT_NE(row(one, 0), row(two, 0));
  for (std::int64_t i = 0; i < kernel.num_rows; ++i)
    for (std::int64_t j = 0; j < i; ++j) EXPECT_NE(row(one, i), row(one, j));
}

// sigma = sqrt(2 / (9 * out channels)) before truncation at 2 sigma, which leaves 0.8796 of it
// (the variance of the truncated normal is 0.7737).
TEST(Initialise, KernelsAreNormalTruncatedAtTwoSigma) {
  const Architecture network = network_of("hamiltonian", {2, 2}, {16, 64});
  const ParameterMap map(network, all_of(network));
  const std::vector<float> values = initial_values(map, network, 1);
  const auto check = [&](const ParameterEntry& entry, double out) {
    const double sigma = std::sqrt(2 / (9 * out));
    double sum_of_squares = 0, largest = 0;
    for (std::size_t i = 0; i < entry.size(); ++i) {
      const double value = values[entry.offset + i];
      sum_of_squares += value * value;
      largest = std::max(largest, std::abs(value));
    }
    EXPECT_LE(largest, 2 * sigma * (1 + 1e-6)) << entry.name;  // rounded to float
    EXPECT_GT(largest, 1.8 * sigma) << entry.name;
    // standard error of a relative deviation: below sqrt(1 / (2 * 432)) = 0.034; three of them
    const double deviation = std::sqrt(sum_of_squares / static_cast<double>(entry.size()));
    EXPECT_NEAR(deviation / sigma, 0.8796, 0.1) << entry.name;
  };

  check(map.opening_kernel, 16);
  check(map.stages[0].kernel, 8);
  check(map.stages[1].kernel, 32);
}

TEST(Initialise, FullyConnectedIsUniformWithinItsBound) {
  const Architecture network = network_of("leapfrog", {1, 1}, {16, 100});
  const ParameterMap map(network, all_of(network));
  const std::vector<float> values = initial_values(map, network, 1);
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(map.closing_weight.offset);
  const auto [least, most] = std::minmax_element(begin, begin + 500);

  EXPECT_GE(*least, -0.1f);
  EXPECT_LE(*most, 0.1f);
  EXPECT_LT(*least, -0.095f);
  EXPECT_GT(*most, 0.095f);
}

TEST(Initialise, TheRestIsZerosAndOnes) {
  const Architecture network = network_of("midpoint");
  const ParameterMap map(network, all_of(network));
  const std::vector<float> values = initial_values(map, network, 1);

  for (const ParameterEntry* entry : map.entries()) {
    if (entry->name.ends_with("kernel") || entry->name.ends_with("weight")) continue;
    const bool one = entry->name.ends_with("scale") || entry->name.ends_with("variance") ||
                     entry->name.ends_with("std");
    for (std::size_t i = 0; i < entry->size(); ++i)
      EXPECT_EQ(values[entry->offset + i], one ? 1.0f : 0.0f) << entry->name;
  }
}

}  // namespace
}  // namespace revode
