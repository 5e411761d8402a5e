// What a run reports while it goes: metrics.jsonl for machines, one live line on a terminal or
// plain lines in a file for people.
#pragma once

#include <chrono>
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

/// Where a command's text for people goes: standard output, or standard error where `--json -` has
/// taken that.
std::FILE* text_stream(const std::string& json);

enum class ProgressStyle { live, lines, off };
/// `setting`: auto, on, off. A live line on a terminal, plain lines into a file; where that can't
/// be found out (behind an MPI daemon on another node), on means live and auto means lines.
ProgressStyle progress_style(const std::string& setting, std::FILE* stream = stdout);

/// "1.5 h", "12 min", "45 s".
std::string format_duration(double seconds);
/// "1.2 GiB", "34 MiB", "512 B".
std::string format_bytes(double bytes);
/// "9,632,458".
std::string format_count(std::int64_t count);

/// Reports to a stream; no control codes unless it is a terminal.
class ProgressLine {
 public:
  ProgressLine() = default;
  explicit ProgressLine(ProgressStyle style, std::FILE* stream = stdout)
      : style_(style), stream_(stream) {}
  ~ProgressLine() { finish(); }

  ProgressStyle style() const { return style_; }
  /// Replaces the live line (at most ten times a second). Nothing in other styles.
  void update(const std::string& text);
  /// A line of its own that stays; the live line goes.
  void print(const std::string& text);
  /// Leaves the cursor at the start of a fresh line.
  void finish();

 private:
  void clear();

  ProgressStyle style_ = ProgressStyle::off;
  std::FILE* stream_ = stdout;
  bool live_ = false;
  std::chrono::steady_clock::time_point last_update_{};
};

}  // namespace revode
