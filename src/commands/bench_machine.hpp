// What a bench learns of the machine that it runs on: for plans of other runs.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "revode/train/network.hpp"

#include "commands/benchmark.hpp"

namespace revode {

/// What --machine-file holds: the layers with micro-batches of the run's size, and of half, a
/// quarter and so on down to one image, which a plan may take instead; disk; between several hosts
/// the network. Collective.
nlohmann::ordered_json machine_of(Network& network, const Measurements& seen);

}  // namespace revode
