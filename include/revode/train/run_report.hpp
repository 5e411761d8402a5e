// What is told of a run while it goes, and at its end: lines for people, records in metrics.jsonl,
// the result for --json. Rank 0 alone speaks; on the others nothing is told.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "revode/run/run_log.hpp"
#include "revode/train/damage.hpp"
#include "revode/train/evaluation.hpp"
#include "revode/train/report.hpp"
#include "revode/train/session.hpp"

namespace revode {

class RunReport {
 public:
  /// session and start must outlive this object. last_step: where the run ends.
  RunReport(Session& session, const StartPoint& start, std::int64_t last_step);

  /// set_aside: what RunFolder::prepare() did; record: of provenance.hpp; block: start_block().
  void begin(const std::vector<std::string>& set_aside, const nlohmann::ordered_json& record,
             const std::string& block);
  /// After a step that took `seconds`.
  void step(const StepReport& report, const RunProgress& progress, double seconds);
  /// Before step() of a step without an update. is_last: of others only numbers are told.
  void skipped(const NonFinite& found, bool is_last);
  /// Before step() or after an evaluation that was computed again for each of these.
  void repeated(const std::vector<Damage>& found, const std::string& when, std::int64_t epoch,
                std::int64_t step);
  /// Before and after going back for the `count`-th time.
  void rewinding(const NonFinite& found, const std::string& checkpoint, std::int64_t count,
                 int max_rewinds);
  void rewound(const NonFinite& found, const RunProgress& progress,
               const std::vector<std::string>& set_aside);
  /// Before an evaluation.
  void evaluating(const RunProgress& progress);
  /// At the end of progress.epoch; best: the test accuracy is the highest so far.
  void epoch(const RunProgress& progress, const std::optional<Evaluation>& test, bool best);
  /// A file that the run goes on without; it is told in words what comes of that.
  void save_failed(const RunProgress& progress, const std::string& reason,
                   const std::string& what_now);
  /// After failed tries.
  void saved_again(const std::string& checkpoint, int num_failures);
  /// Whether the run is to stop since metrics.jsonl can't be written.
  bool must_stop() const { return !metrics_failure_.empty() && !goes_on(); }
  /// Throws a run error where not all records are in metrics.jsonl.
  void require_metrics();
  /// saved: what the run stands at, as `checkpoint`; else it goes on from that.
  void stopped(const RunProgress& progress, const std::string& why, const std::string& checkpoint,
               bool saved);
  /// The last record.
  void end_record(const RunProgress& progress, const Evaluation& test);
  /// Collective.
  void end(const RunProgress& progress, const Evaluation& test, double best_accuracy,
           const MemoryReport& memory, const std::string& checkpoint);

 private:
  struct Timing {
    double step_seconds = 0;  // since the last record
    double waiting_seconds = 0;
    std::int64_t images = 0;
    double total_seconds = 0;  // of all steps of this process
    double total_work_seconds = 0;
    double total_waiting_seconds = 0;
    std::int64_t total_images = 0;
  };

  bool speaks() const { return session_.grid().is_printer(); }
  /// Of a run that outlives files that can't be written.
  bool goes_on() const { return session_.config().on_save_error == "continue"; }
  MetricsFile& metrics() { return start_.folder->metrics(); }
  /// A record in metrics.jsonl, or kept for later.
  void record(const nlohmann::ordered_json& record);
  /// After a write of metrics.jsonl that went well.
  void note_metrics();
  double seconds_left(const RunProgress& progress) const;
  double images_per_second() const;
  void note_range(const StepReport& report, const RunProgress& progress);
  void print_summary(const RunProgress& progress, const Evaluation& test, double best_accuracy,
                     const MemoryReport& memory, const std::string& balance);

  Session& session_;
  const StartPoint& start_;
  std::int64_t last_step_;
  RunLog log_;
  Timing timing_;
  std::chrono::steady_clock::time_point last_line_{};
  bool warned_of_range_ = false;
  std::int64_t num_repeated_ = 0;  // by this process
  std::string metrics_failure_;    // empty where all records are written
};

}  // namespace revode
