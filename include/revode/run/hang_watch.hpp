// Ends a job in which nothing moves any more, and says whose fault that is. A thread of each rank
// looks at what the main thread is at; it calls no MPI, so it also sees a rank that is caught
// within a collective call or a library. Ranks tell each other through files in a folder.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "revode/core/activity.hpp"

namespace revode {

/// How long a rank may be at one thing: as told or, where nothing is told, ten minutes, and twenty
/// times the longest that this rank has been at one thing so far if that is more.
class Patience {
 public:
  explicit Patience(std::optional<double> seconds) : told_(seconds) {}
  /// A rank was at one thing for so long, and went on.
  void note(double seconds);
  double seconds() const;

 private:
  std::optional<double> told_;
  double longest_ = 0;
};

/// What a rank says of itself in its hang-<rank>.txt.
struct HangReport {
  int rank = 0;
  int waits_for = Activity::nobody;  ///< as Activity has it
  std::string at;                    ///< the innermost activity, in words
  double seconds = 0;                ///< for so long
};

/// The error's sentence for a job of the ranks in `places` ("process 12 on node3"): names those
/// that the others wait for, which are those without a report and those that wait for nobody;
/// where there are none, says who waits for whom. reports: in the order of ranks, at least one.
std::string describe_hang(const std::vector<HangReport>& reports,
                          const std::vector<std::string>& places);

/// The same for ranks that can't read each other's reports: what this one knows of itself.
std::string describe_hang_alone(const HangReport& report, const std::string& place);

/// What a watch takes its time for; shorter in tests.
struct WatchPace {
  using Time = std::chrono::milliseconds;
  /// The main thread is looked at that often.
  Time look_every{250};
  /// A look that comes later than this was held up: the process was stopped, with the rest of the
  /// job perhaps, and what it missed is not counted.
  Time longest_look{1000};
  /// A rank in doubt asks that often whether others hang.
  Time ask_every{1000};
  /// A rank that has reported waits so long for the others' reports.
  Time gather_for{2500};
  /// One that does not print lets the one that does go first.
  Time give_way_for{2500};
};

/// Where ranks report. All see it, or there is none (an empty path): then each speaks for itself.
struct ReportFolder {
  std::filesystem::path path;
  bool is_of_watch = false;  ///< made for the first report, and for reports alone
};

class HangWatch {
 public:
  struct Job {
    int rank = 0;
    std::vector<std::string> places;  ///< of all ranks: "process 12 on node3"
    std::string name;                 ///< the same on all ranks, and no other job's
  };

  /// seconds: Patience's, above 0. end_job: called by the watching thread with the error's sentence
  /// on the rank that is to print it, and with nothing on the others; it is not to return.
  HangWatch(Job job, ReportFolder folder, std::optional<double> seconds,
            std::function<void(const std::string* error)> end_job, const WatchPace& pace = {});
  ~HangWatch();

 private:
  void watch();
  bool rest(std::chrono::milliseconds time);
  bool moves_again(std::uint64_t changes);
  std::vector<HangReport> reports() const;
  void write(const ActivityState& state, double seconds) const;
  void withdraw() const;
  void end(const ActivityState& state, double seconds) const;

  Job job_;
  ReportFolder folder_;
  Patience patience_;
  std::function<void(const std::string*)> end_job_;
  WatchPace pace_;
  std::mutex mutex_;
  std::condition_variable over_;
  bool is_over_ = false;     // guarded by mutex_
  bool is_failing_ = false;  // guarded by mutex_; over because of an error
  std::thread thread_;       // last: it uses all of the above
};

/// "hang-3.txt".
std::string hang_file_name(int rank);

/// Prints the error, if there is one, and ends the process at once with status 1: what waits within
/// MPI can't be unwound. To be given to HangWatch.
[[noreturn]] void end_hanging_job(const std::string* error);

}  // namespace revode
