// How much memory this process really takes, as the operating system counts.
#pragma once

#include <cstdint>
#include <filesystem>

namespace revode {

/// Of files of memory that several processes of a host see.
inline constexpr const char* shared_memory_name = "revode-messages";

/// Bytes of the largest resident set that this process has had. Of shared memory it counts its
/// part: a page that n processes use is an n-th of a page to each. `process` is where its status is
/// looked for (another folder in tests).
std::int64_t peak_resident_bytes(const std::filesystem::path& process = "/proc/self");

}  // namespace revode
