// Which rank takes which place of the grid, from where the ranks run: messages go along time, so
// neighbours in time belong on one host. Knows names alone, and asks no MPI library.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace revode {

/// order[p]: the rank at place p, which is time rank p % time_ranks of replica p / time_ranks.
using RankOrder = std::vector<int>;

/// The order of the ranks, of which rank r runs on hosts[r]: their own, unless another one has
/// fewer links between neighbours in time that join two hosts; then hosts one behind the other,
/// each with its ranks ascending. Rank 0 is at place 0 in any case. time_ranks divides the number
/// of ranks.
RankOrder order_ranks(std::span<const std::string> hosts, int time_ranks);

/// Pairs of neighbours in time that run on two hosts.
int num_links_across_hosts(std::span<const std::string> hosts, const RankOrder& order,
                           int time_ranks);

/// "4 hosts; 3 of 14 links in time cross hosts", and how many would if ranks had kept their own
/// order, where they have not. Empty on one host.
std::string hosts_in_words(std::span<const std::string> hosts, const RankOrder& order,
                           int time_ranks);

}  // namespace revode
