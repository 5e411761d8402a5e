#include "commands/disk_rate.hpp"

#include <chrono>
#include <cstddef>
#include <vector>

#include "revode/core/units.hpp"
#include "revode/files/durable_files.hpp"

namespace revode {

// As a save does it: room first, then the bytes.
double measure_disk_rate(const std::filesystem::path& file) {
  const std::vector<std::byte> bytes(std::size_t{64} << 20, std::byte{0x5a});
  TemporaryFile temporary;
  temporary.make_beside(file);
  const auto begin = std::chrono::steady_clock::now();
  reserve_space(temporary.path(), bytes.size(), temporary.path());
  write_pieces(temporary.path(), {{bytes.data(), bytes.size(), 0}}, temporary.path());
  return static_cast<double>(bytes.size()) / seconds_since(begin);
}

}  // namespace revode
