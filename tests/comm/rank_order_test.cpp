// The order of the ranks over pretended hosts: named by letters, one a rank.
#include "revode/comm/rank_order.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace revode {
namespace {

using Hosts = std::vector<std::string>;

Hosts hosts_of(std::string_view letters) {
  Hosts hosts;
  for (const char letter : letters) hosts.emplace_back(1, letter);
  return hosts;
}

RankOrder order_of(std::string_view letters, int time_ranks) {
  return order_ranks(hosts_of(letters), time_ranks);
}

/// The hosts of the places, one word a replica.
std::string replicas_of(std::string_view letters, int time_ranks) {
  std::string text;
  for (const int rank : order_of(letters, time_ranks)) {
    if (text.size() % (time_ranks + 1) == static_cast<std::size_t>(time_ranks)) text += ' ';
    text += letters[rank];
  }
  return text;
}

RankOrder identity(std::size_t size) {
  RankOrder order(size);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

int crossing_links(const Hosts& hosts, int time_ranks) {
  return num_links_across_hosts(hosts, order_ranks(hosts, time_ranks), time_ranks);
}

// Sanitizers find in fewer hosts what there is.
#ifdef __SANITIZE_ADDRESS__
constexpr int most_hosts = 2;
#else
constexpr int most_hosts = 4;
#endif

/// Calls visit(hosts, time_ranks) for all ways in which at most `most_hosts` hosts can hold so many
/// ranks, and for all grids.
template <typename Visit>
void for_all_launches(int num_ranks, Visit&& visit) {
  std::string letters(num_ranks, 'a');
  const char last = static_cast<char>('a' + most_hosts - 1);
  while (true) {
    for (int time_ranks = 1; time_ranks <= num_ranks; ++time_ranks)
      if (num_ranks % time_ranks == 0) visit(hosts_of(letters), time_ranks);
    // Counts up in digits a, b, ...; which letter rank 0's host has does not matter.
    int digit = num_ranks - 1;
    while (digit > 0 && letters[digit] == last) letters[digit--] = 'a';
    if (digit == 0) return;
    ++letters[digit];
  }
}

TEST(RankOrder, OneHostKeepsItsRanks) {
  for (const int time_ranks : {1, 2, 4, 8})
    EXPECT_EQ(order_of("aaaaaaaa", time_ranks), identity(8));
}

TEST(RankOrder, ConsecutiveRanksOnAHostStay) {
  for (const int time_ranks : {1, 2, 4, 8})
    EXPECT_EQ(order_of("aaaabbbb", time_ranks), identity(8));
  EXPECT_EQ(order_of("aaabbbcccddd", 2), identity(12));
}

TEST(RankOrder, DealtRanksAreGatheredByHost) {
  EXPECT_EQ(order_of("abababab", 4), (RankOrder{0, 2, 4, 6, 1, 3, 5, 7}));
  EXPECT_EQ(order_of("abcdabcd", 2), (RankOrder{0, 4, 1, 5, 2, 6, 3, 7}));
}

TEST(RankOrder, WholeHostsAreChainedWhereAReplicaIsLarger) {
  EXPECT_EQ(order_of("abcabc", 6), (RankOrder{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(replicas_of("abcdabcd", 4), "aabb ccdd");
}

TEST(RankOrder, ReplicasThatFitAHostAreNotSplit) {
  EXPECT_EQ(replicas_of("abababcdcdcd", 2), "aa ab bb cc cd dd");
  EXPECT_EQ(replicas_of("abcabcabcabc", 3), "aaa abb bbc ccc");
}

TEST(RankOrder, UnevenHostsThatCompleteEachOtherAreNeighbours) {
  // 1, 2, 3, 2 ranks: in the order of the hosts three replicas of four would be split
  EXPECT_EQ(replicas_of("abbcccdd", 4), "accc bbdd");
  // 3, 4, 1 ranks: the host of a whole replica keeps it
  EXPECT_EQ(replicas_of("aaabbbbc", 4), "aaac bbbb");
  // 1, 2, 5, 3, 3 ranks: the pair is found though another host would begin with one of it
  EXPECT_EQ(replicas_of("abbcccccdddeee", 7), "adddeee bbccccc");
  // 3, 1, 2, 3, 2, 3 ranks: no pairs, but two groups of three
  EXPECT_EQ(replicas_of("aaabccdddeefff", 7), "aaabddd cceefff");
}

TEST(RankOrder, WithoutLinksRanksStay) { EXPECT_EQ(order_of("abcabc", 1), identity(6)); }

TEST(RankOrder, EveryRankHasOnePlaceAndRankZeroTheFirst) {
  for_all_launches(6, [](const Hosts& hosts, int time_ranks) {
    RankOrder order = order_ranks(hosts, time_ranks);

    EXPECT_EQ(order.front(), 0);
    std::ranges::sort(order);
    EXPECT_EQ(order, identity(hosts.size()));
  });
}

TEST(RankOrder, NeverCrossesMoreThanTheLaunchersOrder) {
  for_all_launches(8, [](const Hosts& hosts, int time_ranks) {
    const RankOrder order = order_ranks(hosts, time_ranks), own = identity(hosts.size());
    const int crossing = num_links_across_hosts(hosts, order, time_ranks);
    const int before = num_links_across_hosts(hosts, own, time_ranks);

    EXPECT_TRUE(order == own ? crossing == before : crossing < before)
        << ::testing::PrintToString(hosts) << ", " << time_ranks << " time ranks";
  });
}

TEST(RankOrder, NoOrderOfSixRanksCrossesFewer) {
  for_all_launches(6, [](const Hosts& hosts, int time_ranks) {
    int fewest = std::numeric_limits<int>::max();
    RankOrder order = identity(hosts.size());
    do {
      fewest = std::min(fewest, num_links_across_hosts(hosts, order, time_ranks));
    } while (std::next_permutation(order.begin() + 1, order.end()));

    EXPECT_EQ(crossing_links(hosts, time_ranks), fewest)
        << ::testing::PrintToString(hosts) << ", " << time_ranks << " time ranks";
  });
}

TEST(RankOrder, LinksAreCountedWithinReplicas) {
  const Hosts hosts = hosts_of("abcabc");
  EXPECT_EQ(num_links_across_hosts(hosts, identity(6), 1), 0);
  EXPECT_EQ(num_links_across_hosts(hosts, identity(6), 2), 3);
  EXPECT_EQ(num_links_across_hosts(hosts, identity(6), 3), 4);
  EXPECT_EQ(num_links_across_hosts(hosts, identity(6), 6), 5);
  EXPECT_EQ(num_links_across_hosts(hosts, {0, 3, 1, 4, 2, 5}, 2), 0);
  EXPECT_EQ(num_links_across_hosts(hosts, {0, 3, 1, 4, 2, 5}, 6), 2);
}

TEST(RankOrder, WordsSayWhatCrossesAndWhatWasGained) {
  const auto words = [](std::string_view letters, int time_ranks) {
    return hosts_in_words(hosts_of(letters), order_of(letters, time_ranks), time_ranks);
  };
  EXPECT_EQ(words("aaaa", 2), "");
  EXPECT_EQ(words("aaaabbbb", 8), "2 hosts; 1 of 7 links in time cross hosts");
  EXPECT_EQ(words("abcabc", 3),
            "3 hosts; 2 of 4 links in time cross hosts, 4 before ranks were reordered");
  EXPECT_EQ(words("abab", 1), "2 hosts; no links in time");
}

}  // namespace
}  // namespace revode
