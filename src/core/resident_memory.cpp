#include "revode/core/resident_memory.hpp"

#include <fstream>
#include <sstream>
#include <string>

#include <sys/resource.h>

namespace revode {
namespace {

/// Of lines as "VmHWM:     2048 kB" the bytes of those with that name, added up.
struct Field {
  std::string name;
  std::int64_t bytes = 0;

  void read(const std::string& line) {
    std::istringstream words(line);
    std::string word;
    std::int64_t kilobytes = 0;
    if (words >> word >> kilobytes && word == name) bytes += 1024 * kilobytes;
  }
};

/// What is counted in full in the resident sets of several processes, beyond this one's part.
std::int64_t shared_elsewhere(const std::filesystem::path& process) {
  std::ifstream maps(process / "smaps");
  Field resident{"Rss:"}, proportional{"Pss:"};
  bool is_shared = false;
  for (std::string line; std::getline(maps, line);) {
    // Only the line that begins a mapping has a name behind it.
    const bool begins = line.find(':') > line.find(' ');
    if (begins) is_shared = line.find(shared_memory_name) != std::string::npos;
    if (begins || !is_shared) continue;
    resident.read(line);
    proportional.read(line);
  }
  return resident.bytes - proportional.bytes;
}

}  // namespace

std::int64_t peak_resident_bytes(const std::filesystem::path& process) {
  // Of this program alone: what getrusage() counts includes the process that started it, up to the
  // exec.
  std::ifstream status(process / "status");
  Field peak{"VmHWM:"};
  for (std::string line; std::getline(status, line);) peak.read(line);
  if (peak.bytes > 0) return peak.bytes - shared_elsewhere(process);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{1024} * usage.ru_maxrss;  // Linux counts in KiB
}

}  // namespace revode
