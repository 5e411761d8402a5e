// What machines read of a run: metrics.jsonl while it goes, and the result as one JSON object.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

namespace revode {

/// metrics.jsonl: one JSON object a line, flushed line by line.
class MetricsFile {
 public:
  MetricsFile() = default;
  /// Opens `file` to append. Records beyond `last_step` are cut away first (a resume), as are a
  /// half-written last line and the closing "end" record; with last_step < 0 the file starts empty.
  MetricsFile(const std::filesystem::path& file, std::int64_t last_step);
  ~MetricsFile();
  MetricsFile(MetricsFile&& other) noexcept;
  MetricsFile& operator=(MetricsFile&& other) noexcept;

  void write(const nlohmann::ordered_json& record);

 private:
  std::FILE* file_ = nullptr;
  std::filesystem::path path_;
};

/// Writes a command's result: to standard output for "-", else to a file (under a temporary name,
/// renamed).
void write_json(const std::string& destination, const nlohmann::ordered_json& result);

}  // namespace revode
