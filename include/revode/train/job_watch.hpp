// The watch over a job's ranks: which options it heeds, and where ranks report.
#pragma once

#include <filesystem>
#include <optional>

#include "revode/comm/communicator.hpp"
#include "revode/config/config.hpp"
#include "revode/run/hang_watch.hpp"

namespace revode {

/// Over a run: ranks report in its folder, which all see. Nothing where --hang-timeout says so.
/// Collective.
std::optional<HangWatch> watch_over_run(const Config& config, const Communicator& world);

/// Over a command that has no folder: ranks report in one of the job's own, below that for
/// temporary files where they share a host, else below the one that rank 0 works in if all see it.
/// analyze is watched where --hang-timeout asks for it: its ranks meet when all are done, so they
/// may well wait for long. Collective.
std::optional<HangWatch> watch_over_command(const Config& config, const Communicator& world);

}  // namespace revode
