// The grid of ranks, time x data: who is whose neighbour, who reads and who speaks.
#include <cstdint>
#include <numeric>
#include <stdexcept>
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

TEST_F(GridTest, OtherNumbersOfRanksAreRefused) {
  EXPECT_THROW(Grid(world_, size(), 2), std::logic_error);
  EXPECT_THROW(Grid(world_, size() + 1, 1), std::logic_error);
  EXPECT_THROW(Grid(world_, 0, size()), std::logic_error);
  EXPECT_THROW(Grid(world_, -1, -size()), std::logic_error);
}

}  // namespace
}  // namespace revode
