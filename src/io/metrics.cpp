#include "revode/io/metrics.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include <fmt/format.h>

#include "revode/core/error.hpp"

#include "io/text_file.hpp"

namespace revode {

MetricsFile::MetricsFile(const std::filesystem::path& file, std::int64_t last_step) : path_(file) {
  std::string kept, cut;
  std::ifstream input(file);
  for (std::string line; std::getline(input, line);) {
    const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object()) continue;                     // cut off by a kill while it was written
    const bool ended = record.value("kind", "") == "end";  // and now goes on
    const bool stays = !ended && record.value("step", std::int64_t{0}) <= last_step;
    (stays ? kept : cut) += line + '\n';
    num_left_behind_ += stays ? 0 : 1;
  }
  if (!cut.empty()) {
    const std::filesystem::path left_behind =
        std::filesystem::path(file).concat(left_behind_suffix);
    std::ofstream output(left_behind, std::ios::app);
    output << cut << std::flush;
    if (!output)
      throw run_error("{}: can't be written: {}", left_behind.string(), std::strerror(errno));
  }
  write_text_file(file, kept, file.string());
  file_ = std::fopen(file.c_str(), "a");
  if (file_ == nullptr)
    throw run_error("{}: can't be opened: {}", file.string(), std::strerror(errno));
}

MetricsFile::~MetricsFile() {
  if (file_ != nullptr) std::fclose(file_);
}

MetricsFile::MetricsFile(MetricsFile&& other) noexcept
    : file_(std::exchange(other.file_, nullptr)),
      path_(std::move(other.path_)),
      num_left_behind_(other.num_left_behind_) {}

MetricsFile& MetricsFile::operator=(MetricsFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(path_, other.path_);
  std::swap(num_left_behind_, other.num_left_behind_);
  return *this;
}

void MetricsFile::write(const nlohmann::ordered_json& record) {
  if (file_ == nullptr) return;
  const std::string line = record.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0)
    throw run_error("{}: can't be written: {}", path_.string(), std::strerror(errno));
}

}  // namespace revode
