// Ranks of this host that are said to be on several.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/comm/network_speed.hpp"

namespace revode {
namespace {

TEST(NetworkSpeed, IsMeasuredBetweenTheFirstTwoHosts) {
  const Communicator world(MPI_COMM_WORLD);
  const std::vector<std::vector<std::string>> layouts{{"a", "b", "b", "a"}, {"a", "a", "a", "c"}};
  for (const std::vector<std::string>& hosts : layouts) {
    const auto speed = measure_network(world, hosts);
    ASSERT_TRUE(speed);
    EXPECT_EQ(speed->first, "a");
    EXPECT_EQ(speed->second, hosts[1] == "b" ? "b" : "c");
    // Through memory: 8 MiB take more than some microseconds, and less than a second.
    EXPECT_GT(speed->latency_seconds, 1e-9);
    EXPECT_LT(speed->latency_seconds, 1);
    EXPECT_GT(speed->bytes_per_second, 8e6);
    EXPECT_LT(speed->bytes_per_second, 1e12);
    const std::vector<double> of_ranks = world.all_gather(std::vector{speed->bytes_per_second});
    EXPECT_EQ(of_ranks, std::vector<double>(4, speed->bytes_per_second));
  }
}

TEST(NetworkSpeed, OfOneHostIsNone) {
  const Communicator world(MPI_COMM_WORLD);
  EXPECT_FALSE(measure_network(world, std::vector<std::string>(4, "a")));
}

}  // namespace
}  // namespace revode
