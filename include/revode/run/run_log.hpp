// What people see of a run while it goes: lines that stay, and on a terminal one live line.
// Training never depends on it: where nobody reads it any more, it falls silent.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>

#include "revode/config/run_plan.hpp"

namespace revode {

/// Where a command's text for people goes: standard output, or standard error where `--json -` has
/// taken that.
std::FILE* text_stream(const Config& config);

/// How progress within an epoch is shown. Lines that stay are printed in every style.
enum class ProgressStyle {
  live,   ///< one line, redrawn
  lines,  ///< now and then a line
  off,    ///< not at all
};
/// A live line on a terminal, plain lines into a file; where that can't
/// be found out (behind an MPI daemon on another node), on means live and automatic means lines.
ProgressStyle progress_style(ProgressSetting setting, std::FILE* stream = stdout);

/// Columns of the window behind `stream` (behind mpirun: behind the launcher's), 80 where nobody
/// can tell.
int window_columns(std::FILE* stream);

/// Two units at most: "2 days 3 h", "1 h 30 min", "12 min 5 s", "45 s".
std::string format_duration(double seconds);
/// "1.2 GiB", "34 MiB", "512 B".
std::string format_bytes(double bytes);
/// "9,632,458".
std::string format_count(std::int64_t count);

class RunLog {
 public:
  /// Says nothing: for all ranks but one.
  RunLog() = default;
  /// columns: asked at each redraw, since windows change.
  RunLog(ProgressStyle style, std::FILE* stream, std::function<int()> columns = {});
  RunLog(RunLog&&) = delete;
  ~RunLog() { finish(); }

  ProgressStyle style() const { return style_; }
  /// Redraws the live line (at most ten times a second), cut to the window. Nothing in other
  /// styles.
  void update(const std::string& text);
  /// A line (or several) of its own that stays; the live line goes.
  void print(const std::string& text);
  /// Leaves the cursor at the start of a fresh line.
  void finish();

 private:
  void write(const std::string& text);

  ProgressStyle style_ = ProgressStyle::off;
  std::FILE* stream_ = nullptr;  ///< null: nobody listens
  std::function<int()> columns_;
  bool live_ = false;
  std::chrono::steady_clock::time_point last_update_{};
};

}  // namespace revode
