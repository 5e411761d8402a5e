// What revode analyze found, as text for a terminal.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace revode {

/// Of the result as --json writes it: a table by depth, one of growth, and what they come to.
std::string analysis_report(const nlohmann::ordered_json& result);

}  // namespace revode
