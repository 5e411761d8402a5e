// Tables for people: the start-up block and the end of a run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "revode/train/network.hpp"

namespace revode {

/// Memory of one rank by category, gathered from all ranks.
struct MemoryReport {
  std::vector<MemoryUse> ranks;             ///< the host's
  std::vector<MemoryUse> devices;           ///< of ranks that compute on one, else empty uses
  std::vector<std::int64_t> peak_resident;  ///< bytes, one a rank
};
MemoryReport gather_memory(const Communicator& communicator);
/// Of the rank that took most: "62 MiB (rank 0): weights ... 13 MiB;", and in a second line, which
/// `indentation` blanks open, the rest, so that the parts add up.
std::string peak_memory_text(const MemoryReport& report, int indentation);
/// Likewise of the devices: "85 MiB (rank 0): weights ... 13 MiB, states ..."; empty without any.
std::string device_memory_text(const MemoryReport& report);
/// Bytes, one a rank.
std::vector<std::int64_t> device_peaks(const MemoryReport& report);
/// Peaks by category, one number a rank: {"state": [...], ...}, for --json.
nlohmann::ordered_json peaks_by_category(const std::vector<MemoryUse>& ranks);

/// Architecture, parameters, backend, threads, grid, hosts where there are several, partition over
/// ranks, memory a rank, expected bubble. Collective; to be printed by rank 0, the others may leave
/// parts out.
std::string start_block(Network& network);

}  // namespace revode
