// Where this process runs, in words.
#pragma once

#include <string>

namespace revode {

std::string host_name();
/// "node1 in /data/study".
std::string place_of_process();
/// Model name of the first processor, as the system names it.
std::string processor_name();
/// The time now: "2026-01-31T12:00:00Z".
std::string utc_time();

}  // namespace revode
