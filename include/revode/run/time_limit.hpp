// When a run has to stop so that there is time left to save. Knows no clock: callers say how long
// things took.
#pragma once

#include <cstdint>
#include <optional>

namespace revode {

class TimeLimit {
 public:
  /// No limit.
  TimeLimit() = default;
  /// seconds: what the run may take in all, from its beginning; save_seconds: what a save is taken
  /// to last until one has been measured.
  TimeLimit(double seconds, double save_seconds) : seconds_(seconds), save_seconds_(save_seconds) {}

  /// A round is a training step with what followed it, an evaluation perhaps; a save not counted.
  void note_round(double seconds);
  void note_save(double seconds);

  /// True where, after another two rounds as long as the longest, there might not be time for so
  /// many saves: then the next round is to be the last.
  bool allows_one_round_only(double elapsed_seconds, int num_saves = 1) const;

 private:
  double seconds_ = 0;  ///< 0: none
  double save_seconds_ = 0;
  double longest_round_ = 0;
  double longest_save_ = 0;
};

/// The limit of a run that begins now: the sooner of --time-limit (in seconds, if given) and the
/// end of the SLURM job (its environment variable's text, in seconds since 1970, or null).
/// `parameters` are the floats that a save writes.
TimeLimit time_limit_of(std::optional<std::int64_t> option_seconds, const char* slurm_job_end_time,
                        double seconds_since_1970, double parameters);

}  // namespace revode
