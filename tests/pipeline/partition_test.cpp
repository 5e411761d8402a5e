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

/// A cut for ranks of equal speed.
std::vector<BlockRange> cut_of(const Costs& costs, std::int64_t first_extra,
                               std::int64_t last_extra, int num_slices) {
  return partition({{costs, first_extra, last_extra}}, std::vector<int>(num_slices, 0));
}

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

/// Calls what(cut) with every cut.
template <typename What>
void for_each_cut(int num_blocks, int num_slices, What&& what) {
  for (unsigned edges = 0; edges < 1u << (num_blocks - 1); ++edges) {  // bit i: behind block i
    std::vector<BlockRange> cut{{0, num_blocks}};
    for (int i = 0; i + 1 < num_blocks; ++i) {
      if ((edges >> i & 1) == 0) continue;
      cut.back().last = i + 1;
      cut.push_back({i + 1, num_blocks});
    }
    if (static_cast<int>(cut.size()) == num_slices) what(cut);
  }
}

Quality best_by_brute_force(const Costs& costs, std::int64_t first_extra, std::int64_t last_extra,
                            int num_slices) {
  Quality best{std::numeric_limits<std::int64_t>::max(), 0};
  for_each_cut(static_cast<int>(costs.size()), num_slices, [&](const std::vector<BlockRange>& cut) {
    best = std::min(best, quality(costs, first_extra, last_extra, cut));
  });
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

      const std::vector<BlockRange> cut = cut_of(costs, first_extra, last_extra, num_slices);

      expect_a_partition(cut, num_blocks, num_slices);
      const Quality got = quality(costs, first_extra, last_extra, cut);
      const Quality best = best_by_brute_force(costs, first_extra, last_extra, num_slices);
      EXPECT_EQ(got.largest, best.largest);
      EXPECT_EQ(got.sum_of_squares, best.sum_of_squares);
    }
  }
}

TEST(Partition, EqualBlocksAreSharedEvenly) {
  const std::vector<BlockRange> cut = cut_of(Costs(16, 10), 0, 0, 4);

  EXPECT_EQ(cut, (std::vector<BlockRange>{{0, 4}, {4, 8}, {8, 12}, {12, 16}}));
}

TEST(Partition, AnExpensiveOpeningTakesBlocksFromTheFirstSlice) {
  const std::vector<BlockRange> cut = cut_of(Costs(10, 10), 40, 0, 2);

  EXPECT_EQ(cut, (std::vector<BlockRange>{{0, 3}, {3, 10}}));
}

Architecture network_of(int depth) {
  ArchitectureOptions options;
  options.depth = depth;
  return Architecture(options);
}

std::int64_t slice_cost(const Architecture& network, BlockRange range) {
  return slice_cost(network, multiply_adds(network), range).total();
}

TEST(Partition, MoreSlicesThanBlocksNamesTheLargestNumber) {
  const Architecture network = network_of(26);
  const auto refused = [&](int num_slices, int num_ranks) {
    return error_text(ExitStatus::bad_input, [&] {
      partition(network, Placement::round_robin(num_slices, num_ranks), {multiply_adds(network)});
    });
  };
  EXPECT_EQ(partition(network, 6).size(), 6u);
  for (const char* part : {"7 time ranks", "at most 6"})
    EXPECT_NE(refused(7, 7).find(part), std::string::npos) << refused(7, 7);
  for (const char* part : {"--slices-per-rank 2", "4 time ranks", "at most 1"})
    EXPECT_NE(refused(8, 4).find(part), std::string::npos) << refused(8, 4);
}

// A rank that is twice as fast takes twice as much, wherever its slices lie.
TEST(Partition, RanksOfUnequalSpeedGetUnequalSlices) {
  const BlockCosts slow{Costs(12, 20)}, fast{Costs(12, 10)};
  EXPECT_EQ(partition({slow, fast}, {0, 1}), (std::vector<BlockRange>{{0, 4}, {4, 12}}));
  EXPECT_EQ(partition({slow, fast}, {0, 1, 0, 1}),
            (std::vector<BlockRange>{{0, 2}, {2, 6}, {6, 8}, {8, 12}}));
}

TEST(Partition, OfRanksOfAnySpeedIsTheLeastPossible) {
  RandomStream random(2, Purpose::check, 0);
  for (int round = 0; round < 60; ++round) {
    const int num_blocks = 2 + static_cast<int>(random.below(6));
    const int num_slices = 1 + static_cast<int>(random.below(num_blocks));
    std::vector<BlockCosts> costs(2);
    for (BlockCosts& some : costs) {
      some.first_extra = random.below(30);
      some.last_extra = random.below(30);
      for (int block = 0; block < num_blocks; ++block) {
        some.blocks.push_back(1 + random.below(40));
        const std::int64_t most = block == 0 ? 20 : some.entries.back() + some.blocks[block - 1];
        some.entries.push_back(random.below(static_cast<std::uint32_t>(most + 1)));
      }
    }
    std::vector<int> of_slice(num_slices);
    for (int& which : of_slice) which = static_cast<int>(random.below(2));
    const auto largest = [&](const std::vector<BlockRange>& cut) {
      std::int64_t most = 0;
      for (int s = 0; s < num_slices; ++s) {
        const BlockCosts& some = costs[of_slice[s]];
        std::int64_t cost = some.entries[cut[s].first] + (s == 0 ? some.first_extra : 0) +
                            (s + 1 == num_slices ? some.last_extra : 0);
        for (int block = cut[s].first; block < cut[s].last; ++block) cost += some.blocks[block];
        most = std::max(most, cost);
      }
      return most;
    };
    std::int64_t best = std::numeric_limits<std::int64_t>::max();
    for_each_cut(num_blocks, num_slices,
                 [&](const std::vector<BlockRange>& cut) { best = std::min(best, largest(cut)); });

    const std::vector<BlockRange> cut = partition(costs, of_slice);

    expect_a_partition(cut, num_blocks, num_slices);
    EXPECT_EQ(largest(cut), best);
  }
}

// 18 blocks in 6 slices of 3 would give the rank of the dearer halves more.
TEST(Partition, RanksWithSeveralSlicesAreBalanced) {
  const Architecture network = network_of(74);
  LayerCosts costs = uniform_costs(network);
  costs.blocks = {{50, 150}, {40, 110}, {35, 100}};
  for (const int slices_a_rank : {2, 3, 4}) {
    const Placement placement = Placement::round_robin(2 * slices_a_rank, 2);
    const std::vector<BlockRange> cut = partition(network, placement, {costs});
    expect_a_partition(cut, 18, 2 * slices_a_rank);
    std::vector<std::int64_t> totals(2);
    for (int slice = 0; slice < placement.num_slices(); ++slice)
      totals[placement.rank_of(slice)] += slice_cost(network, costs, cut[slice]).total();
    EXPECT_LE(std::abs(totals[0] - totals[1]), 135) << slices_a_rank;
  }
}

// Blocks of equal cost: only where slices begin can be chosen, so that the rank without the opening
// has the transitions. No end can move alone without its rank getting a block too many.
TEST(Partition, EndsMoveTogetherWhereOneAloneDoesNotHelp) {
  const Architecture network = network_of(74);
  const LayerCosts costs{.opening = {0, 17},
                         .closing = {0, 6},
                         .blocks = {{0, 36}, {0, 36}, {0, 36}},
                         .transitions = {{0, 3}, {0, 3}},
                         .visits = {{0, 5}, {0, 5}, {0, 5}}};
  const Placement placement = Placement::round_robin(6, 2);

  const std::vector<BlockRange> cut = partition(network, placement, {costs}, 1.2);

  expect_a_partition(cut, 18, 6);
  std::vector<std::int64_t> totals(2);
  for (int slice = 0; slice < 6; ++slice)
    totals[placement.rank_of(slice)] += slice_cost(network, costs, cut[slice]).total();
  EXPECT_EQ(totals[0], 17 + 9 * 36 + 3 * 5);
  EXPECT_EQ(totals[1], 6 + 9 * 36 + 3 * 5 + 2 * 3);
}

// Transitions are done by the slice that ends a stage.
TEST(LayerCosts, AddUpToTheNetwork) {
  const Architecture network = network_of(26);
  LayerCosts costs{.opening = {1, 2},
                   .closing = {3, 4},
                   .blocks = {{10, 30}, {100, 300}, {1000, 3000}},
                   .transitions = {{5, 6}, {7, 8}},
                   .visits = {{20, 50}, {200, 500}, {2000, 5000}}};

  const SweepCost first = slice_cost(network, costs, {0, 2}),
                  second = slice_cost(network, costs, {2, 3}),
                  two_stages = slice_cost(network, costs, {2, 4}),
                  rest = slice_cost(network, costs, {3, 6});

  EXPECT_EQ(first.forward, 1 + 2 * 10 + 20);
  EXPECT_EQ(second.back, 30 + 6 + 50);
  EXPECT_EQ(two_stages.back, 30 + 6 + 50 + 300 + 500);
  EXPECT_EQ(rest.forward, 2 * 100 + 200 + 1000 + 2000 + 7 + 3);
  EXPECT_EQ(uniform_costs(network).blocks[0].total(), uniform_costs(network).blocks[2].total());
  EXPECT_EQ(multiply_adds(network).blocks[1].total(), network.block_cost(3));
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

TEST(CutEvenly, SizesDifferByAtMostOneLargerFirst) {
  EXPECT_EQ(cut_evenly(100, 4), (std::vector{25, 25, 25, 25}));
  EXPECT_EQ(cut_evenly(8, 3), (std::vector{3, 3, 2}));
  EXPECT_EQ(cut_evenly(10, 4), (std::vector{3, 3, 2, 2}));
  EXPECT_EQ(cut_evenly(7, 1), std::vector{7});
}

TEST(CutEvenly, NoMicroBatchIsEmpty) {
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
