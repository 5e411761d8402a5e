// Arrays that the ranks of this host share.
#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "revode/comm/shared_memory.hpp"

namespace revode {
namespace {

class SharedMemoryOfRanks : public testing::Test {
 protected:
  double* make(std::size_t size, double value) {
    auto* array = static_cast<double*>(memory_.allocate(size * sizeof(double)));
    std::fill_n(array, size, value);
    return array;
  }
  /// The array of each rank that has published one, here.
  std::vector<double*> everyones(const double* own) {
    std::vector<double*> all;
    for (const std::int64_t name : world_.all_gather(memory_.name_of(own)))
      all.push_back(static_cast<double*>(memory_.find(name)));
    return all;
  }
  int rank() const { return world_.rank(); }

  Communicator world_{MPI_COMM_WORLD};
  SharedMemory memory_{world_};
};

TEST_F(SharedMemoryOfRanks, NewArraysAreZero) {
  const auto* array = static_cast<const char*>(memory_.allocate(10'000));

  EXPECT_EQ(std::count(array, array + 10'000, 0), 10'000);
}

TEST_F(SharedMemoryOfRanks, PublishedArraysAreSeenByAll) {
  for (const double round : {0, 1}) {  // what is made later is seen, too
    const double* own = make(1000, 10 * rank() + round);
    memory_.publish();
    const std::vector<double*> all = everyones(own);
    for (int other = 0; other < world_.size(); ++other) {
      EXPECT_EQ(memory_.shares_with(other), other != rank());
      EXPECT_EQ(all[other][0], 10 * other + round);
      EXPECT_EQ(all[other][999], 10 * other + round);
    }
  }
}

TEST_F(SharedMemoryOfRanks, AnArrayHasOneNameOnAllRanks) {
  const double* own = make(10, 0);
  memory_.publish();

  const std::vector<std::int64_t> names = world_.all_gather(memory_.name_of(own));

  const std::vector<double*> all = everyones(own);
  for (int other = 0; other < world_.size(); ++other)
    EXPECT_EQ(memory_.name_of(all[other]), names[other]);
}

TEST_F(SharedMemoryOfRanks, WhatOneRankWritesTheOtherReads) {
  const double* own = make(10, 0);
  memory_.publish();
  everyones(own)[(rank() + 1) % world_.size()][3] = rank();
  world_.barrier();

  EXPECT_EQ(own[3], (rank() + world_.size() - 1) % world_.size());
}

TEST_F(SharedMemoryOfRanks, ARankWithoutArraysSharesNone) {
  if (rank() > 0) make(10, 0);
  memory_.publish();

  for (int other = 0; other < world_.size(); ++other)
    EXPECT_EQ(memory_.shares_with(other), rank() > 0 && other > 0 && other != rank());
}

}  // namespace
}  // namespace revode
