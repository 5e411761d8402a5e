// The result of the bench command as tables for people.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

namespace revode {

/// `result`: the object that `bench --json` writes.
std::string bench_tables(const nlohmann::ordered_json& result);

}  // namespace revode
