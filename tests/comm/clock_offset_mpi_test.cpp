// Clocks of several hosts, made up, and those of the ranks of this one.
#include <vector>

#include <gtest/gtest.h>

#include "revode/comm/clock_offset.hpp"

namespace revode {
namespace {

TEST(ClockOffset, IsThatOfTheFastestRound) {
  // Rank 0 is 1000 ahead; the ways there and back take 30 + 70, 5 + 5, 10 + 400.
  const std::vector<PingPong> rounds{{0, 1030, 100}, {200, 1205, 210}, {300, 1310, 710}};

  const ClockOffset offset = offset_of(rounds);

  EXPECT_EQ(offset.ahead, 1000);
  EXPECT_EQ(offset.at, 205);
}

TEST(ClockOffset, IsNoneWhereTheClocksMayBeTheSame) {
  for (const std::int64_t answered : {100, 101, 105, 109, 111})
    EXPECT_EQ(offset_of(std::vector<PingPong>{{100, answered, 111}}).ahead, 0) << answered;
  EXPECT_NE(offset_of(std::vector<PingPong>{{100, 120, 111}}).ahead, 0);
  EXPECT_NE(offset_of(std::vector<PingPong>{{100, 91, 111}}).ahead, 0);
}

TEST(ClockOffset, ChangesLinearly) {
  const ClockOffset first{1000, 500}, last{3000, 400};

  EXPECT_EQ(by_clock_of_root(1000, first, last), 1500);
  EXPECT_EQ(by_clock_of_root(2000, first, last), 2450);
  EXPECT_EQ(by_clock_of_root(3000, first, last), 3400);
  EXPECT_EQ(by_clock_of_root(7, first, first), 507);
}

TEST(ClockOffset, DelaysBringMessagesIntoOrder) {
  // 0 -> 1 and 1 -> 2 seem to arrive 10 and 5 early; 2 -> 0 has room for both.
  const std::vector<TimedMessage> messages{{1, 2, 300, 295}, {0, 1, 100, 90}, {2, 0, 400, 430}};

  EXPECT_EQ(delays_into_order(3, messages), (std::vector<std::int64_t>{0, 10, 15}));
  EXPECT_EQ(delays_into_order(2, std::vector<TimedMessage>{{0, 1, 5, 5}, {1, 0, 6, 9}}),
            (std::vector<std::int64_t>{0, 0}));
}

TEST(ClockOffset, DelaysComeToAnEndWhereClocksContradictEachOther) {
  const std::vector<TimedMessage> messages{{0, 1, 100, 90}, {1, 0, 100, 90}};

  EXPECT_EQ(delays_into_order(2, messages).size(), 2u);
}

TEST(ClockOffset, RanksOfOneHostHaveOneClock) {
  const Communicator world(MPI_COMM_WORLD);

  EXPECT_EQ(measure_clock_offset(world).ahead, 0);
}

TEST(Gather, HasEachRanksValuesOnTheRootAlone) {
  const Communicator world(MPI_COMM_WORLD);
  const std::vector<std::int64_t> mine(world.rank(), 10 + world.rank());

  const std::vector<std::vector<std::int64_t>> all = world.gather(mine);

  std::vector<std::vector<std::int64_t>> expected;
  for (int rank = 0; world.is_root() && rank < world.size(); ++rank)
    expected.emplace_back(rank, 10 + rank);
  EXPECT_EQ(all, expected);
}

}  // namespace
}  // namespace revode
