// What made the numbers: program, machine and libraries. Goes into the start-up block and
// metrics.jsonl, never into a checkpoint, whose bytes stay the same whoever wrote it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "revode/train/network.hpp"

namespace revode {

/// The record with which a run begins, or goes on from `step`: {"kind": "start", "step": ...,
/// "version": ...}.
nlohmann::ordered_json start_record(Network& network, std::int64_t step, std::int64_t epoch);

/// One line of it for people.
std::string provenance_line(const nlohmann::ordered_json& start_record);

/// The start record of the part of a run that wrote `checkpoint`, from the metrics.jsonl beside the
/// file (links are followed); null where there is none.
nlohmann::ordered_json start_record_of(const std::filesystem::path& checkpoint, std::int64_t step);

}  // namespace revode
