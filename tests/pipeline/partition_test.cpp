// The cut of the network into time slices, against brute force, and of mini-batches into
// micro-batches.
#include "revode/pipeline/partition.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/core/random.hpp"

#include "support/error_text.hpp"

namespace revode {
namespace {

using Costs = std::vector<std::int64_t>;

struct Quality {
  std::int64_t largest = 0;
  std::int64_t sum_of_squares = 0;
  auto operator<=>(const Quality&) const = default;
};

Quality quality(const Costs& costs, std::int64_t first_extra, std::int64_t last_extra,
                const std::vector<BlockRange>& cut) {
  Quality result;
  for (std::size_t s = 0; s < cut.size(); ++s) {
    std::int64_t cost =
        std::accumulate(costs.begin() + cut[s].first, costs.begin() + cut[s].last, std::int64_t{0});
    if (s == 0) cost += first_extra;
    if (s + 1 == cut.size()) cost += last_extra;
    result.largest = std::max(result.largest, cost);
    result.sum_of_squares += cost * cost;
  }
  return result;
}

/// The best of all cuts, one after the other.
Quality best_by_brute_force(const Costs& costs, std::int64_t first_extra, std::int64_t last_extra,
                            int num_slices) {
  const int n = static_cast<int>(costs.size());
  Quality best{std::numeric_limits<std::int64_t>::max(), 0};
  for (unsigned edges = 0; edges < 1u << (n - 1); ++edges) {  // bit i: a cut behind block i
    std::vector<BlockRange> cut{{0, n}};
    for (int i = 0; i + 1 < n; ++i) {
      if ((edges >> i & 1) == 0) continue;
      cut.back().last = i + 1;
      cut.push_back({i + 1, n});
    }
    if (static_cast<int>(cut.size()) == num_slices)
      best = std::min(best, quality(costs, first_extra, last_extra, cut));
  }
  return best;
}

void expect_a_partition(const std::vector<BlockRange>& cut, int num_blocks, int num_slices) {
  ASSERT_EQ(static_cast<int>(cut.size()), num_slices);
  EXPECT_EQ(cut.front().first, 0);
  EXPECT_EQ(cut.back().last, num_blocks);
  for (std::size_t s = 0; s < cut.size(); ++s) {
    EXPECT_GE(cut[s].size(), 1) << s;
    if (s > 0) {
      EXPECT_EQ(cut[s].first, cut[s - 1].last) << s;
    }
  }
}

TEST(Partition, TheLargestSliceIsTheLeastPossible) {
  RandomStream random(1, Purpose::check, 0);
  for (int round = 0; round < 100; ++round) {
    Costs costs(1 + random.below(9));
    for (std::int64_t& cost : costs) cost = 1 + random.below(round % 2 == 0 ? 3 : 100);
    const std::int64_t first_extra = random.below(60), last_extra = random.below(60);
    const int num_blocks = static_cast<int>(costs.size());
    for (int num_slices = 1; num_slices <= num_blocks; ++num_slices) {
      SCOPED_TRACE(testing::PrintToString(costs) + " in " + std::to_string(num_slices));

      const std::vector<BlockRange> cut = partition(costs, first_extra, last_extra, num_slices);

      expect_a_partition(cut, num_blocks, num_slices);
      const Quality got = quality(costs, first_extra, last_extra, cut);
      const Quality best = best_by_brute_force(costs, first_extra, last_extra, num_slices);
      EXPECT_EQ(got.largest, best.largest);
      EXPECT_EQ(got.sum_of_squares, best.sum_of_squares);
    }
  }
}

TEST(Partition, EqualBlocksAreSharedEvenly) {
  const std::vector<BlockRange> cut = partition(Costs(16, 10), 0, 0, 4);

  EXPECT_EQ(cut, (std::vector<BlockRange>{{0, 4}, {4, 8}, {8, 12}, {12, 16}}));
}

TEST(Partition, AnExpensiveOpeningTakesBlocksFromTheFirstSlice) {
  const std::vector<BlockRange> cut = partition(Costs(10, 10), 40, 0, 2);

  EXPECT_EQ(cut, (std::vector<BlockRange>{{0, 3}, {3, 10}}));
}

TEST(Partition, MoreSlicesThanBlocksNamesTheLargestNumber) {
  EXPECT_EQ(partition(Costs(5, 1), 0, 0, 5).size(), 5u);
  const std::string text =
      error_text(ExitStatus::bad_input, [] { partition(Costs(5, 1), 0, 0, 6); });
  EXPECT_NE(text.find("6 time ranks"), std::string::npos) << text;
  EXPECT_NE(text.find("at most 5"), std::string::npos) << text;
}

TEST(Partition, NoSliceAtAllIsRefused) {
  EXPECT_NE(error_text(ExitStatus::bad_input, [] { partition(Costs(5, 1), 0, 0, 0); }), "");
}

Architecture network_of(int depth) {
  ArchitectureOptions options;
  options.depth = depth;
  return Architecture(options);
}

TEST(Partition, NetworksOfAnyDepthHaveOneForEveryNumberOfRanks) {
  for (const int depth : {26, 74, 1202}) {
    const Architecture network = network_of(depth);
    for (const int ranks : {1, 2, 3, 4, 6}) {
      const std::vector<BlockRange> cut = partition(network, ranks);
      expect_a_partition(cut, network.num_blocks(), ranks);
      std::int64_t sum = 0;
      for (const BlockRange range : cut) sum += slice_cost(network, range);
      EXPECT_EQ(sum, slice_cost(network, {0, network.num_blocks()}));
    }
  }
}

TEST(Partition, SlicesOfADeepNetworkAreWithinABlockOfTheMean) {
  const Architecture network = network_of(1202);
  const std::int64_t whole = slice_cost(network, {0, network.num_blocks()});
  std::int64_t dearest_block = 0;
  for (int block = 0; block < network.num_blocks(); ++block)
    dearest_block = std::max(dearest_block, network.block_cost(block));

  for (const BlockRange range : partition(network, 8))
    EXPECT_LE(slice_cost(network, range), whole / 8 + dearest_block);
}

// A pass over all pairs of ends would take hours here. The second network's last block costs more
// than a rank's share, so that the other cuts are free to lie nearly anywhere.
// Sanitizers find in a tenth of the blocks what there is.
TEST(Partition, TheDeepestNetworksAreCutWithinSeconds) {
#ifdef __SANITIZE_ADDRESS__
  constexpr int num_blocks = 100'000;
#else
  constexpr int num_blocks = 1'000'000;
#endif
  for (const std::vector<int>& widths : {std::vector{8, 16, 16}, std::vector{8, 8, 8000}}) {
    ArchitectureOptions options;
    options.blocks = {1, num_blocks - 2, 1};
    options.widths = widths;
    const Architecture network(options);
    for (const int ranks : {1, 7, 64}) {
      const std::vector<BlockRange> cut = partition(network, ranks);

      expect_a_partition(cut, num_blocks, ranks);
      std::int64_t largest = 0;
      for (const BlockRange range : cut) largest = std::max(largest, slice_cost(network, range));
      const std::int64_t dearest = network.block_cost(num_blocks - 1);
      EXPECT_LE(largest, std::max(slice_cost(network, {0, num_blocks}) / ranks, dearest) +
                             network.block_cost(1) + network.closing_cost());
    }
  }
}

TEST(CutMiniBatch, SizesDifferByAtMostOneLargerFirst) {
  EXPECT_EQ(cut_evenly(100, 4), (std::vector{25, 25, 25, 25}));
  EXPECT_EQ(cut_evenly(8, 3), (std::vector{3, 3, 2}));
  EXPECT_EQ(cut_evenly(10, 4), (std::vector{3, 3, 2, 2}));
  EXPECT_EQ(cut_evenly(7, 1), std::vector{7});
}

TEST(CutMiniBatch, NoMicroBatchIsEmpty) {
  EXPECT_EQ(cut_evenly(3, 5), (std::vector{1, 1, 1}));
  for (int size = 1; size <= 20; ++size) {
    for (int count = 1; count <= 20; ++count) {
      const std::vector<int> cut = cut_evenly(size, count);
      EXPECT_EQ(std::accumulate(cut.begin(), cut.end(), 0), size);
      EXPECT_GE(cut.back(), 1);
    }
  }
}

}  // namespace
}  // namespace revode
