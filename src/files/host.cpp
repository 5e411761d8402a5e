#include "revode/files/host.hpp"

#include <array>
#include <ctime>
#include <filesystem>

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

std::string utc_time() { return fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr))); }

}  // namespace revode
