// What machines read of a run while it goes: metrics.jsonl.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

#include <nlohmann/json_fwd.hpp>

namespace revode {

/// What a run leaves behind when it goes on from before it, or starts anew, keeps its name with
/// this at its end.
inline constexpr const char* left_behind_suffix = ".left-behind";

/// metrics.jsonl: one JSON object a line, each handed to the system at once. Lines that it does not
/// take are kept, and go before later ones.
class MetricsFile {
 public:
  MetricsFile() = default;
  /// Opens `file` to append. Lines that are no records up to `last_step` go first: later records, a
  /// half-written last line, the closing "end" record, records of rewinds (kind "rewind") after the
  /// first `num_rewinds`. They are added to a file of that name with left_behind_suffix. With
  /// last_step < 0 all go. kept: what the run that goes back could not write, behind what it could.
  MetricsFile(const std::filesystem::path& file, std::int64_t last_step,
              std::int64_t num_rewinds = 0, const std::string& kept = {});
  ~MetricsFile();
  MetricsFile(MetricsFile&& other) noexcept;
  MetricsFile& operator=(MetricsFile&& other) noexcept;

  /// Adds a line. Throws a run error where it, or one before it, can't be written now.
  void write(const nlohmann::ordered_json& record);
  /// Tries again to write what is kept. Throws a run error as write() does.
  void flush();
  /// What could not be written yet; from now on another's business.
  std::string take_kept() { return std::exchange(kept_, {}); }
  const std::filesystem::path& path() const { return path_; }
  /// Records that went when the file was opened.
  std::int64_t num_left_behind() const { return num_left_behind_; }
  /// Where they went; empty where there were none.
  const std::filesystem::path& left_behind() const { return left_behind_; }

 private:
  int file_ = -1;
  std::string kept_;  ///< not written yet
  std::filesystem::path path_;
  std::int64_t num_left_behind_ = 0;
  std::filesystem::path left_behind_;
};

}  // namespace revode
