#include "revode/comm/rank_order.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace revode {
namespace {

using HostRanks = std::vector<int>;

/// The ranks of each host, ascending; hosts in the order of their lowest ranks.
std::vector<HostRanks> ranks_by_host(std::span<const std::string> hosts) {
  std::vector<HostRanks> by_host;
  std::map<std::string_view, std::size_t> index_of;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    const auto [found, is_new] = index_of.try_emplace(hosts[rank], by_host.size());
    if (is_new) by_host.emplace_back();
    by_host[found->second].push_back(static_cast<int>(rank));
  }
  return by_host;
}

RankOrder own_order(std::size_t num_ranks) {
  RankOrder order(num_ranks);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

/// Of hosts, by their indices.
using Group = std::vector<std::size_t>;

// Hosts that share replicas, directly or through others, together fill whole replicas. In such a
// group k hosts one behind the other have at most k - 1 crossing links, and no other order of them
// has fewer: H hosts in G groups have H - G, and more groups are better. Most groups are found by
// taking first what fills whole replicas alone, then pairs; the best cut of the others would be a
// packing problem: each group takes whoever comes first until there is one that ends it.
std::vector<Group> groups_of_whole_replicas(const std::vector<HostRanks>& hosts,
                                            std::size_t time_ranks) {
  // What a host has beyond whole replicas.
  const auto excess = [&](std::size_t host) { return hosts[host].size() % time_ranks; };
  const auto find_with = [&](Group& among, std::size_t wanted) {
    return std::ranges::find(among, wanted, excess);
  };
  std::vector<Group> groups;
  Group left;
  for (std::size_t host = 0; host < hosts.size(); ++host) {
    const auto partner = find_with(left, time_ranks - excess(host));
    if (excess(host) == 0) {
      groups.push_back({host});
    } else if (partner != left.end()) {
      groups.push_back({*partner, host});
      left.erase(partner);
    } else {
      left.push_back(host);
    }
  }
  std::size_t filled = 0;  // of the last replica of an unfinished group
  while (!left.empty()) {
    if (filled == 0) groups.emplace_back();
    auto next = find_with(left, time_ranks - filled);
    if (next == left.end()) next = left.begin();
    filled = (filled + excess(*next)) % time_ranks;
    groups.back().push_back(*next);
    left.erase(next);
  }
  return groups;
}

/// Groups in the order of their first hosts, so that rank 0 comes first.
RankOrder host_after_host(const std::vector<HostRanks>& hosts, std::size_t time_ranks) {
  std::vector<Group> groups = groups_of_whole_replicas(hosts, time_ranks);
  std::ranges::sort(groups);
  RankOrder order;
  for (const Group& group : groups)
    for (const std::size_t host : group)
      order.insert(order.end(), hosts[host].begin(), hosts[host].end());
  return order;
}

}  // namespace

RankOrder order_ranks(std::span<const std::string> hosts, int time_ranks) {
  RankOrder own = own_order(hosts.size());
  RankOrder by_host = host_after_host(ranks_by_host(hosts), time_ranks);
  const auto crossing = [&](const RankOrder& order) {
    return num_links_across_hosts(hosts, order, time_ranks);
  };
  return crossing(by_host) < crossing(own) ? by_host : own;
}

int num_links_across_hosts(std::span<const std::string> hosts, const RankOrder& order,
                           int time_ranks) {
  int count = 0;
  for (std::size_t place = 1; place < order.size(); ++place) {
    const bool is_link = place % time_ranks != 0;
    count += is_link && hosts[order[place - 1]] != hosts[order[place]];
  }
  return count;
}

std::string hosts_in_words(std::span<const std::string> hosts, const RankOrder& order,
                           int time_ranks) {
  const std::size_t num_hosts = ranks_by_host(hosts).size();
  if (num_hosts == 1) return "";
  if (time_ranks == 1) return fmt::format("{} hosts; no links in time", num_hosts);
  const std::size_t num_links = order.size() - order.size() / time_ranks;
  std::string text = fmt::format("{} hosts; {} of {} links in time cross hosts", num_hosts,
                                 num_links_across_hosts(hosts, order, time_ranks), num_links);
  if (const RankOrder own = own_order(hosts.size()); order != own)
    text += fmt::format(", {} before ranks were reordered",
                        num_links_across_hosts(hosts, own, time_ranks));
  return text;
}

}  // namespace revode
