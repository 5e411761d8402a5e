// What messages between hosts take.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "revode/comm/communicator.hpp"

namespace revode {

struct NetworkSpeed {
  double latency_seconds = 0;   ///< of a message of one value
  double bytes_per_second = 0;  ///< of a large one, behind its latency
  std::string first, second;    ///< the hosts between which it was measured
};

/// Between the lowest ranks of the first two hosts, back and forth, with nothing else under way.
/// hosts: where each rank runs. None where there is one host. Collective; all ranks learn it.
std::optional<NetworkSpeed> measure_network(const Communicator& world,
                                            std::span<const std::string> hosts);

}  // namespace revode
