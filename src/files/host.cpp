#include "revode/files/host.hpp"

#include <array>
#include <ctime>
#include <filesystem>
#include <fstream>

#include <fmt/chrono.h>
#include <unistd.h>

namespace revode {

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

std::string place_of_process() {
  std::error_code ignored;
  return fmt::format("{} in {}", host_name(), std::filesystem::current_path(ignored).string());
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name"))
      if (const std::size_t colon = line.find(": "); colon != std::string::npos)
        return line.substr(colon + 2);
  return "unknown";
}

std::string utc_time() { return fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr))); }

}  // namespace revode
