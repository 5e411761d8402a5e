// How much memory this process may use at most: that of the host, or what a control group (a
// container's, a batch job's) allows of it. What is taken already does not count.
#pragma once

#include <cstdint>
#include <filesystem>

namespace revode {

/// Bytes: the least of MemTotal in /proc/meminfo and the limits of the control groups, of version 2
/// and 1, that this process is in. 0 where the system does not say. `root` is where /proc and /sys
/// are looked for (another folder in tests).
std::int64_t host_memory_bytes(const std::filesystem::path& root = "/");

}  // namespace revode
