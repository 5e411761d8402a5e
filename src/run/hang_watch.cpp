#include "revode/run/hang_watch.hpp"

#include <algorithm>
#include <charconv>
#include <exception>
#include <fstream>
#include <future>
#include <map>
#include <memory>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/files/host.hpp"
#include "revode/files/text_file.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double least_patience_seconds = 600;
constexpr double patience_factor = 20;

constexpr std::string_view file_prefix = "hang-";
constexpr std::string_view file_suffix = ".txt";
constexpr std::string_view job_key = "job: ";
constexpr std::string_view seconds_key = "seconds: ";
constexpr std::string_view at_key = "at: ";
constexpr std::string_view waits_key = "waits for: ";

std::string whom(int waits_for) {
  if (waits_for == Activity::nobody) return "nobody";
  if (waits_for == Activity::everybody) return "all ranks";
  return fmt::format("rank {}", waits_for);
}

int whom_of(std::string_view text) {
  if (text == "nobody") return Activity::nobody;
  constexpr std::string_view prefix = "rank ";
  int rank = Activity::everybody;
  if (text.starts_with(prefix))
    std::from_chars(text.data() + prefix.size(), text.data() + text.size(), rank);
  return rank;
}

/// "rank 2", "ranks 2 and 3", "ranks 0 to 6 and 9".
std::string words_for(const std::vector<int>& ranks) {
  std::vector<std::string> runs;
  for (std::size_t first = 0, last = 0; first < ranks.size(); first = last + 1) {
    last = first;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (last < first + 2) last = first;
    runs.push_back(first == last ? fmt::format("{}", ranks[first])
                                 : fmt::format("{} to {}", ranks[first], ranks[last]));
  }
  const std::string head = ranks.size() == 1 ? "rank" : "ranks";
  if (runs.size() == 1) return fmt::format("{} {}", head, runs.front());
  return fmt::format("{} {} and {}", head, fmt::join(runs.begin(), runs.end() - 1, ", "),
                     runs.back());
}

/// The rank of "hang-3.txt".
std::optional<int> rank_of_file(std::string_view name) {
  if (!name.starts_with(file_prefix) || !name.ends_with(file_suffix)) return std::nullopt;
  name.remove_prefix(file_prefix.size());
  name.remove_suffix(std::min(name.size(), file_suffix.size()));
  int rank = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), rank);
  return error == std::errc() && end == name.data() + name.size() ? std::optional(rank)
                                                                  : std::nullopt;
}

void write_report(const ReportFolder& folder, const HangWatch::Job& job, const ActivityState& state,
                  double seconds) {
  std::error_code ignored;
  if (folder.is_of_watch) fs::create_directory(folder.path, ignored);
  const Activity& innermost = state.stack.back();
  std::string text = fmt::format("rank {}, {}, {}\n", job.rank, job.places[job.rank], utc_time());
  text += fmt::format("{}{}\n{}{:.1f}\n{}{}\n{}{}\n", job_key, job.name, seconds_key, seconds,
                      at_key, to_string(innermost), waits_key, whom(innermost.waits_for));
  text += "\nfrom the outermost to the innermost:\n";
  for (const Activity& activity : state.stack) text += fmt::format("  {}\n", to_string(activity));
  const fs::path file = folder.path / hang_file_name(job.rank);
  write_text_file(file, text, fmt::format("'{}'", file.string()));
}

/// Of this job; nothing where it is another one's.
std::optional<HangReport> read_report(const fs::path& file, int rank, const std::string& job) {
  std::ifstream input(file);
  std::map<std::string_view, std::string> values;
  for (std::string line; std::getline(input, line);)
    for (const std::string_view key : {job_key, waits_key, at_key, seconds_key})
      if (line.starts_with(key)) values[key] = line.substr(key.size());
  if (values[job_key] != job) return std::nullopt;
  HangReport report{.rank = rank, .waits_for = whom_of(values[waits_key]), .at = values[at_key]};
  const std::string& seconds = values[seconds_key];
  std::from_chars(seconds.data(), seconds.data() + seconds.size(), report.seconds);
  return report;
}

/// In the order of ranks.
std::vector<HangReport> read_reports(const fs::path& folder, const std::string& job) {
  std::vector<HangReport> reports;
  std::error_code failure;
  for (fs::directory_iterator item(folder, failure), end; !failure && item != end;
       item.increment(failure)) {
    const std::optional<int> rank = rank_of_file(item->path().filename().string());
    if (!rank) continue;
    if (const auto report = read_report(item->path(), *rank, job)) reports.push_back(*report);
  }
  std::ranges::sort(reports, {}, &HangReport::rank);
  return reports;
}

/// The file system may be what hangs: what is not read or written by then is done without.
constexpr std::chrono::seconds patience_with_files{10};

/// What `action` returns, or a Result of its own making where it fails or takes too long. The
/// action owns what it uses: its thread may outlive the caller.
template <typename Result>
Result without_hanging(std::function<Result()> action) {
  auto promise = std::make_shared<std::promise<Result>>();
  std::future<Result> future = promise->get_future();
  std::thread([promise, action = std::move(action)] {
    try {
      promise->set_value(action());
    } catch (const std::exception& error) {
      print_note(error.what());
      promise->set_value({});
    }
  }).detach();
  return future.wait_for(patience_with_files) == std::future_status::ready ? future.get()
                                                                           : Result{};
}

}  // namespace

void Patience::note(double seconds) { longest_ = std::max(longest_, seconds); }

double Patience::seconds() const {
  return told_.value_or(std::max(least_patience_seconds, patience_factor * longest_));
}

std::string describe_hang(const std::vector<HangReport>& reports,
                          const std::vector<std::string>& places) {
  std::vector<int> waiting, silent;
  const HangReport* busy = nullptr;
  double longest = 0;
  for (int rank = 0; rank < static_cast<int>(places.size()); ++rank) {
    const auto report = std::ranges::find(reports, rank, &HangReport::rank);
    if (report == reports.end()) {
      silent.push_back(rank);
    } else if (report->waits_for == Activity::nobody) {
      if (busy == nullptr) busy = &*report;
    } else {
      waiting.push_back(rank);
      longest = std::max(longest, report->seconds);
    }
  }
  if (waiting.empty() && busy != nullptr)
    return fmt::format("nothing has moved for {:.0f} s: rank {} ({}) {}", busy->seconds, busy->rank,
                       places[busy->rank], busy->at);
  const std::string wait = waiting.size() == 1 ? "waits" : "wait";
  const std::string head =
      fmt::format("nothing has moved for {:.0f} s: {} {}", longest, words_for(waiting), wait);
  if (!silent.empty()) {
    std::vector<std::string> of_silent;
    for (const int rank : silent) of_silent.push_back(places[rank]);
    return fmt::format("{} for {} ({}), of which there is no sign of life: stopped, dead or busy",
                       head, words_for(silent), fmt::join(of_silent, ", "));
  }
  if (busy != nullptr)
    return fmt::format("{} for rank {} ({}), which {}", head, busy->rank, places[busy->rank],
                       busy->at);
  std::vector<std::string> each;
  for (const HangReport& report : reports)
    each.push_back(fmt::format("rank {} {}", report.rank, report.at));
  return fmt::format("{} for each other: {}", head, fmt::join(each, "; "));
}

std::string describe_hang_alone(const HangReport& report, const std::string& place) {
  const bool waits = report.waits_for != Activity::nobody;
  return fmt::format("nothing has moved for {:.0f} s on rank {} ({}), which {}{}", report.seconds,
                     report.rank, place, report.at,
                     waits ? fmt::format(" (for {})", whom(report.waits_for)) : "");
}

HangWatch::HangWatch(Job job, ReportFolder folder, std::optional<double> seconds,
                     std::function<void(const std::string*)> end_job, const WatchPace& pace)
    : job_(std::move(job)),
      folder_(std::move(folder)),
      patience_(seconds),
      end_job_(std::move(end_job)),
      pace_(pace),
      thread_([this] { watch(); }) {}

HangWatch::~HangWatch() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    is_failing_ = std::uncaught_exceptions() > 0;
  }
  over_.notify_all();
  thread_.join();
}

/// True once the watch is over.
bool HangWatch::rest(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return over_.wait_for(lock, time, [&] { return is_over_; });
}

// 1. Wait until nothing has changed for too long here, or for half as long and another rank says
//    that it hangs: then this one says why it does not move either.
// 2. Report, gather the others' reports.
// 3. The lowest rank that reported prints; all that reported end themselves.
void HangWatch::watch() {
  std::uint64_t changes = 0;
  Clock::duration unchanged{0};
  Clock::time_point last_look = Clock::now(), last_asked = last_look;
  while (!rest(pace_.look_every)) {
    const Clock::time_point now = Clock::now();
    unchanged += std::min<Clock::duration>(now - last_look, pace_.longest_look);
    last_look = now;
    const ActivityState state = current_activity();
    const double seconds = std::chrono::duration<double>(unchanged).count();
    if (state.changes != changes || state.stack.empty()) {
      if (state.changes != changes) patience_.note(seconds);
      changes = state.changes;
      unchanged = Clock::duration{0};
      continue;
    }
    const double limit = patience_.seconds();
    if (seconds < limit) {
      if (seconds < limit / 2 || now - last_asked < pace_.ask_every) continue;
      last_asked = now;
      if (reports().empty()) continue;
    }

    write(state, seconds);
    std::this_thread::sleep_for(pace_.gather_for);
    if (moves_again(changes)) {
      // And so may the others. Where one of them has ended the job, its end is near.
      std::this_thread::sleep_for(pace_.give_way_for);
      withdraw();
      continue;
    }
    end(state, seconds);
    return;
  }
}

void HangWatch::write(const ActivityState& state, double seconds) const {
  if (folder_.path.empty()) return;
  without_hanging<bool>([folder = folder_, job = job_, state, seconds] {
    write_report(folder, job, state, seconds);
    return true;
  });
}

void HangWatch::withdraw() const {
  if (folder_.path.empty()) return;
  without_hanging<bool>([folder = folder_, file = folder_.path / hang_file_name(job_.rank)] {
    std::error_code ignored;
    fs::remove(file, ignored);
    return folder.is_of_watch && fs::remove(folder.path, ignored);  // unless others report there
  });
}

void HangWatch::end(const ActivityState& state, double seconds) const {
  const HangReport mine{job_.rank, state.stack.back().waits_for, to_string(state.stack.back()),
                        seconds};
  if (folder_.path.empty()) {
    // One that is printed is enough to end the job: the first rank's, if that can.
    if (job_.rank > 0) std::this_thread::sleep_for(pace_.give_way_for);
    const std::string error =
        fmt::format("{} (--hang-timeout; there is no folder for reports that all ranks see)",
                    describe_hang_alone(mine, job_.places[job_.rank]));
    return end_job_(&error);
  }
  std::vector<HangReport> all = reports();
  if (all.empty()) all.push_back(mine);  // It could not be written: for want of better.
  const bool prints = all.front().rank == job_.rank;
  if (!prints) std::this_thread::sleep_for(pace_.give_way_for);
  const std::string error =
      fmt::format("{} (--hang-timeout; {} has more)", describe_hang(all, job_.places),
                  (folder_.path / "hang-<rank>.txt").string());
  end_job_(prints ? &error : nullptr);
}

/// An error that comes while this rank is reported is taken for the end of another: the job ends as
/// one that hangs, with one message.
bool HangWatch::moves_again(std::uint64_t changes) {
  const std::lock_guard lock(mutex_);
  return !is_failing_ && current_activity().changes != changes;
}

std::vector<HangReport> HangWatch::reports() const {
  if (folder_.path.empty()) return {};
  return without_hanging<std::vector<HangReport>>(
      [folder = folder_.path, job = job_.name] { return read_reports(folder, job); });
}

std::string hang_file_name(int rank) {
  return fmt::format("{}{}{}", file_prefix, rank, file_suffix);
}

void end_hanging_job(const std::string* error) {
  if (error != nullptr) print_error(*error);
  ::_exit(static_cast<int>(ExitStatus::failure));
}

}  // namespace revode
