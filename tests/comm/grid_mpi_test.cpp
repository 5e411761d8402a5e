// The grid of ranks, time x data: who is whose neighbour, who reads and who speaks.
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/comm/grid.hpp"

namespace revode {
namespace {

using Ranks = std::vector<std::int64_t>;

class GridTest : public testing::Test {
 protected:
  int rank() const { return world_.rank(); }
  int size() const { return world_.size(); }

  Communicator world_{MPI_COMM_WORLD};
};

TEST_F(GridTest, OneReplicaIsAllRanksInTheirOrder) {
  const Grid grid(world_, size(), 1);

  Ranks all(size());
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(grid.time().all_gather(std::int64_t{rank()}), all);
  EXPECT_EQ(grid.data().all_gather(std::int64_t{rank()}), Ranks{rank()});
  EXPECT_EQ(grid.num_replicas(), 1);
  EXPECT_EQ(grid.replica(), 0);
  EXPECT_EQ(grid.is_reader(), rank() == 0);
  EXPECT_EQ(grid.is_printer(), rank() == 0);
}

TEST_F(GridTest, ConsecutiveRanksShareAReplica) {
  for (int time_ranks = 1; time_ranks <= size(); time_ranks *= 2) {
    const int data_ranks = size() / time_ranks;
    const Grid grid(world_, time_ranks, data_ranks);

    const int replica = rank() / time_ranks, place = rank() % time_ranks;
    Ranks along_time(time_ranks), along_data(data_ranks);
    for (int t = 0; t < time_ranks; ++t) along_time[t] = replica * time_ranks + t;
    for (int d = 0; d < data_ranks; ++d) along_data[d] = d * time_ranks + place;
    EXPECT_EQ(grid.time().all_gather(std::int64_t{rank()}), along_time);
    EXPECT_EQ(grid.data().all_gather(std::int64_t{rank()}), along_data);
    EXPECT_EQ(grid.time().rank(), place);
    EXPECT_EQ(grid.replica(), replica);
    EXPECT_EQ(grid.num_replicas(), data_ranks);
    EXPECT_EQ(grid.is_reader(), place == 0);
    EXPECT_EQ(grid.is_printer(), rank() == 0);
  }
}

// Ranks 0 and 2 on one host, 1 and 3 on the other, as --map-by node deals four.
TEST_F(GridTest, NeighboursInTimeShareAHostThoughRanksAreDealt) {
  if (size() != 4) GTEST_SKIP() << "needs four ranks";
  const std::vector<std::string> hosts{"a", "b", "a", "b"};
  {
    const Grid grid(world_, 2, 2, hosts);

    EXPECT_EQ(grid.order(), (std::vector<int>{0, 2, 1, 3}));
    EXPECT_EQ(grid.hosts(), hosts);
    EXPECT_EQ(grid.time().all_gather(std::int64_t{rank()}),
              rank() % 2 == 0 ? (Ranks{0, 2}) : (Ranks{1, 3}));
    EXPECT_EQ(grid.data().all_gather(std::int64_t{rank()}),
              rank() < 2 ? (Ranks{0, 1}) : (Ranks{2, 3}));
    EXPECT_EQ(grid.replica(), rank() % 2);
    EXPECT_EQ(grid.is_reader(), rank() < 2);
    EXPECT_EQ(grid.is_printer(), rank() == 0);
  }
  const Grid grid(world_, 4, 1, hosts);

  EXPECT_EQ(grid.time().all_gather(std::int64_t{rank()}), (Ranks{0, 2, 1, 3}));
  EXPECT_EQ(grid.data().all_gather(std::int64_t{rank()}), Ranks{rank()});
  EXPECT_EQ(grid.replica(), 0);
  EXPECT_EQ(grid.is_reader(), rank() == 0);
}

// There the ranks of the second places go down as replicas go up.
TEST_F(GridTest, ReplicasAreInTheOrderOfThePlaces) {
  if (size() != 4) GTEST_SKIP() << "needs four ranks";

  const Grid grid(world_, 2, 2, {"a", "b", "b", "a"});

  const bool is_first = rank() == 0 || rank() == 3;
  EXPECT_EQ(grid.time().all_gather(std::int64_t{rank()}), is_first ? (Ranks{0, 3}) : (Ranks{1, 2}));
  EXPECT_EQ(grid.data().all_gather(std::int64_t{rank()}),
            rank() < 2 ? (Ranks{0, 1}) : (Ranks{3, 2}));
  EXPECT_EQ(grid.replica(), is_first ? 0 : 1);
}

TEST_F(GridTest, OtherNumbersOfRanksAreRefused) {
  EXPECT_THROW(Grid(world_, size(), 2), std::logic_error);
  EXPECT_THROW(Grid(world_, size() + 1, 1), std::logic_error);
  EXPECT_THROW(Grid(world_, 0, size()), std::logic_error);
  EXPECT_THROW(Grid(world_, -1, -size()), std::logic_error);
  EXPECT_THROW(Grid(world_, size(), 1, std::vector<std::string>(size() + 1)), std::logic_error);
}

}  // namespace
}  // namespace revode
