#include "revode/run/time_limit.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

namespace revode {
namespace {

/// A save may take this many times as long as the longest so far.
constexpr double save_factor = 2;
/// For what is not measured: messages, the end of the process.
constexpr double spare_seconds = 1;
/// A slow file system, until a save has been measured.
constexpr double assumed_bytes_a_second = 50e6;

}  // namespace

void TimeLimit::note_round(double seconds) { longest_round_ = std::max(longest_round_, seconds); }

void TimeLimit::note_save(double seconds) { longest_save_ = std::max(longest_save_, seconds); }

bool TimeLimit::allows_one_round_only(double elapsed_seconds, int num_saves) const {
  if (seconds_ == 0) return false;
  const double save = longest_save_ > 0 ? save_factor * longest_save_ : save_seconds_;
  return elapsed_seconds + 2 * longest_round_ + num_saves * save + spare_seconds > seconds_;
}

TimeLimit time_limit_of(std::optional<std::int64_t> option_seconds, const char* slurm_job_end_time,
                        double seconds_since_1970, double parameters) {
  constexpr double none = std::numeric_limits<double>::infinity();
  double seconds = option_seconds ? static_cast<double>(*option_seconds) : none;
  if (slurm_job_end_time != nullptr) {
    std::int64_t end = 0;
    const char* behind = slurm_job_end_time + std::strlen(slurm_job_end_time);
    const auto [parsed, error] = std::from_chars(slurm_job_end_time, behind, end);
    if (error == std::errc() && parsed == behind)
      seconds = std::min(seconds, static_cast<double>(end) - seconds_since_1970);
  }
  if (seconds == none) return {};
  return {std::max(seconds, 1e-9), parameters * sizeof(float) / assumed_bytes_a_second};
}

}  // namespace revode
