#include "revode/core/host_memory.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

namespace revode {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t no_limit = std::numeric_limits<std::int64_t>::max();

/// "MemTotal:       65842344 kB"
std::int64_t total_memory(const fs::path& root) {
  std::ifstream lines(root / "proc/meminfo");
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    std::int64_t kilobytes = 0;
    if (words >> name >> kilobytes && name == "MemTotal:") return 1024 * kilobytes;
  }
  return no_limit;
}

/// A file of one number; "max", what is missing and what is no number are no limit.
std::int64_t limit_in(const fs::path& file) {
  std::int64_t bytes = 0;
  return std::ifstream(file) >> bytes && bytes > 0 ? bytes : no_limit;
}

/// The least limit of a group and of those above it. A container may see its own group as the top,
/// under a path that only its host knows: then that of the top is left.
std::int64_t least_limit(const fs::path& top, fs::path group, const char* file) {
  std::int64_t least = limit_in(top / file);
  for (group = group.relative_path(); !group.empty(); group = group.parent_path())
    least = std::min(least, limit_in(top / group / file));
  return least;
}

/// Lines as "0::/user.slice" (version 2) and "9:cpu,memory:/job" (version 1).
std::int64_t group_limit(const fs::path& root) {
  std::int64_t least = no_limit;
  std::ifstream lines(root / "proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const fs::path group = line.substr(second + 1);
    const fs::path groups = root / "sys/fs/cgroup";
    if (controllers == ",,") {
      least = std::min(least, least_limit(groups, group, "memory.max"));
    } else if (controllers.find(",memory,") != controllers.npos) {
      least = std::min(least, least_limit(groups / "memory", group, "memory.limit_in_bytes"));
    }
  }
  return least;
}

}  // namespace

std::int64_t host_memory_bytes(const fs::path& root) {
  const std::int64_t bytes = std::min(total_memory(root), group_limit(root));
  return bytes == no_limit ? 0 : bytes;
}

}  // namespace revode
