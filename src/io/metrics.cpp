#include "revode/io/metrics.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"

namespace revode {
namespace {

/// The lines of `file` up to `last_step`; a last line that is no JSON object was cut off by a kill.
std::vector<std::string> lines_until(const std::filesystem::path& file, std::int64_t last_step) {
  std::vector<std::string> lines;
  std::ifstream input(file);
  for (std::string line; std::getline(input, line);) {
    const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || record.value("step", std::int64_t{0}) > last_step) continue;
    if (record.value("kind", "") == "end") continue;  // of a run that now goes on
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace

MetricsFile::MetricsFile(const std::filesystem::path& file, std::int64_t last_step) : path_(file) {
  const std::vector<std::string> kept = lines_until(file, last_step);
  const std::filesystem::path temporary = file.string() + ".tmp";
  {
    std::ofstream output(temporary);
    for (const std::string& line : kept) output << line << '\n';
    output.flush();
    if (!output)
      throw run_error("{}: can't be written: {}", temporary.string(), std::strerror(errno));
  }
  std::error_code failure;
  std::filesystem::rename(temporary, file, failure);
  if (failure)
    throw run_error("{}: can't be renamed to {}: {}", temporary.string(), file.string(),
                    failure.message());
  file_ = std::fopen(file.c_str(), "a");
  if (file_ == nullptr)
    throw run_error("{}: can't be opened: {}", file.string(), std::strerror(errno));
}

MetricsFile::~MetricsFile() {
  if (file_ != nullptr) std::fclose(file_);
}

MetricsFile::MetricsFile(MetricsFile&& other) noexcept
    : file_(std::exchange(other.file_, nullptr)), path_(std::move(other.path_)) {}

MetricsFile& MetricsFile::operator=(MetricsFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(path_, other.path_);
  return *this;
}

void MetricsFile::write(const nlohmann::ordered_json& record) {
  if (file_ == nullptr) return;
  const std::string line = record.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0)
    throw run_error("{}: can't be written: {}", path_.string(), std::strerror(errno));
}

void write_json(const std::string& destination, const nlohmann::ordered_json& result) {
  const std::string text = result.dump(2) + "\n";
  if (destination == "-") {
    print_result(text);
    return;
  }
  const std::string temporary = destination + ".tmp";
  {
    std::ofstream output(temporary);
    output << text;
    output.flush();
    if (!output)
      throw run_error("--json {}: can't be written: {}", destination, std::strerror(errno));
  }
  std::error_code failure;
  std::filesystem::rename(temporary, destination, failure);
  if (failure) throw run_error("--json {}: can't be written: {}", destination, failure.message());
}

}  // namespace revode
