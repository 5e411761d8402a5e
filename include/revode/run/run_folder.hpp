// The folder of a run, held for this process: what is in it, what may stay there, and what is set
// aside. One process of a run has one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "revode/config/config.hpp"
#include "revode/run/metrics.hpp"
#include "revode/run/run_lock.hpp"
#include "revode/run/run_progress.hpp"

namespace revode {

class RunFolder {
 public:
  /// Makes the folder where it is missing, and holds it. Throws an input error where it can't be
  /// made or written to, is held by another run, or holds files that a run would write over and no
  /// run of revode's made.
  explicit RunFolder(const std::filesystem::path& folder);
  /// Removes what the constructor made where nothing else has been written since.
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return folder_; }
  bool holds_results() const;
  /// The newest checkpoint that is whole, holds finite numbers, and says where the run stood:
  /// checkpoint-<step>.h5 or, where it is of a later step than any of those, best.h5. Those passed
  /// over are named in notes on standard error. Empty where there is none.
  std::filesystem::path newest_complete_checkpoint() const;

  /// Readies the folder for a run that goes on from `step`, or begins (nothing): sets aside, as
  /// <name>.left-behind, what such a run would write over, removes what a killed run had not
  /// finished, writes config.ini, and opens metrics.jsonl. Returns lines for people that say what
  /// was set aside. num_rewinds: how often it has gone back until then, whose records stay.
  std::vector<std::string> prepare(const Config& config, std::optional<std::int64_t> step,
                                   std::int64_t num_rewinds = 0);
  MetricsFile& metrics() { return metrics_; }

  /// Accuracy of best.h5 as that file has it; 0 where there is no such file.
  double best_accuracy() const;
  /// Points latest.h5 to the checkpoint of `step` and removes all but the `keep` newest of this run
  /// (0: none), by a thread, as that takes its time. That of the step `needed` stays.
  void publish(std::int64_t step, int keep, std::optional<std::int64_t> needed = std::nullopt);
  /// Throws a run error where another process has taken the folder.
  void check_held() const;

  /// Of a temporary file for a moment, by which ranks tell that they see one folder.
  static constexpr const char* sign_name = "revode-sign";

 private:
  std::optional<RunProgress> progress_of_best() const;
  void wait_for_removal() const;

  std::filesystem::path folder_;
  std::vector<std::filesystem::path> made_;  ///< folders that were missing, the outermost first
  std::optional<RunLock> lock_;
  MetricsFile metrics_;
  std::future<void> removal_;  // of old checkpoints
};

/// The next folder after runs/<name> that no run has taken: runs/<name>, runs/<name>-2, ...
/// existing: the last one that one has, if any.
std::filesystem::path default_run_folder(const std::string& name, bool existing);

}  // namespace revode
