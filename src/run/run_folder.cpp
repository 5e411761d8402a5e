#include "revode/run/run_folder.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include "revode/checkpoint/checkpoint_files.hpp"
#include "revode/checkpoint/checkpoint_reader.hpp"
#include "revode/checkpoint/file_content.hpp"
#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/run/run_log.hpp"
#include "revode/run/write_permission.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;

constexpr const char* config_name = "config.ini";
constexpr const char* metrics_name = "metrics.jsonl";
constexpr const char* latest_name = "latest.h5";
constexpr const char* best_name = "best.h5";

/// A file itself, not a link to one.
bool is_plain_file(const fs::path& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() == fs::file_type::regular;
}

/// Whether there is anything of that name; dangling links are.
bool is_there(const fs::path& path) {
  std::error_code ignored;
  const fs::file_status status = fs::symlink_status(path, ignored);
  return status.type() != fs::file_type::not_found && status.type() != fs::file_type::none;
}

/// Folders on the way to `folder` that are missing, the outermost first.
std::vector<fs::path> missing_folders(const fs::path& folder) {
  std::vector<fs::path> missing;
  for (fs::path path = folder; !path.empty() && !is_there(path); path = path.parent_path())
    missing.insert(missing.begin(), path);
  return missing;
}

/// <name>.left-behind, or the first of <name>.left-behind-2, -3, ... that is free.
fs::path set_aside(const fs::path& file) {
  fs::path aside = fs::path(file).concat(left_behind_suffix);
  for (int number = 2; is_there(aside); ++number)
    aside = fs::path(file).concat(fmt::format("{}-{}", left_behind_suffix, number));
  std::error_code failure;
  fs::rename(file, aside, failure);
  if (failure)
    throw run_error("'{}' can't be renamed to '{}': {}", file.string(), aside.string(),
                    failure.message());
  return aside;
}

/// Where the run stood, if the file is whole and can be gone on from. Says why not.
std::optional<std::int64_t> complete_step(const fs::path& file) {
  try {
    const CheckpointReader reader(file);
    const std::int64_t step = from_attributes(reader.progress(), file.string()).step;
    const std::optional<std::string> not_finite = first_non_finite(reader);
    REVODE_REQUIRE(!not_finite, "{}: {} holds values that are not finite", file.string(),
                   *not_finite);
    return step;
  } catch (const Error& error) {
    print_note(fmt::format("passing over a checkpoint: {}", error.what()));
    return std::nullopt;
  }
}

bool is_taken(const fs::path& folder) {
  return is_there(folder / RunLock::file_name) || holds_run(folder) ||
         !names_of_run_files(folder).empty();
}

/// A link that publish() makes.
bool is_link_of_run(const fs::path& link) {
  std::error_code failure;
  const std::string target = fs::read_symlink(link, failure).string();
  return !failure && target.starts_with("checkpoint-") && target.ends_with(".h5");
}

}  // namespace

RunFolder::RunFolder(const fs::path& folder) : folder_(folder), made_(missing_folders(folder)) {
  std::error_code failure;
  fs::create_directories(folder, failure);
  try {
    REVODE_REQUIRE(!failure, "--output {}: the folder can't be made: {}", folder.string(),
                   failure.message());
    REVODE_REQUIRE(fs::is_directory(folder, failure), "--output {}: is a file, expected a folder",
                   folder.string());
    if (::access(folder.c_str(), W_OK | X_OK) != 0)
      throw input_error("--output {}: can't be written to: {}", folder.string(),
                        std::strerror(errno));
    const auto check_claim = [&] {
      const std::vector<std::string> taken = names_of_run_files(folder);
      REVODE_REQUIRE(
          taken.empty() || holds_run(folder),
          "--output {}: its {} was not made by a run, and one would write over it; choose another "
          "folder",
          folder.string(), fmt::join(taken, ", "));
    };
    check_claim();
    lock_.emplace(folder);
    check_claim();  // again, now that no other run changes it
  } catch (...) {
    lock_.reset();
    for (auto made = made_.rbegin(); made != made_.rend(); ++made) fs::remove(*made, failure);
    throw;
  }
}

RunFolder::~RunFolder() {
  wait_for_removal();
  lock_.reset();
  std::error_code ignored;  // Folders that hold something stay.
  for (auto made = made_.rbegin(); made != made_.rend(); ++made) fs::remove(*made, ignored);
}

bool RunFolder::holds_results() const { return revode::holds_results(folder_); }

fs::path RunFolder::newest_complete_checkpoint() const {
  const std::vector<fs::path> files = list_checkpoints(folder_);
  for (auto file = files.rbegin(); file != files.rend(); ++file)
    if (complete_step(*file)) return *file;
  const fs::path best = folder_ / best_name;
  if (!is_there(best) || !complete_step(best)) return {};
  print_note(fmt::format("{}: no checkpoint-<step>.h5 can be gone on from; taking {}",
                         folder_.string(), best_name));
  return best;
}

std::vector<std::string> RunFolder::prepare(const Config& config, std::optional<std::int64_t> step,
                                            std::int64_t num_rewinds) {
  wait_for_removal();
  std::vector<std::string> names;
  const auto put_aside = [&](const fs::path& file) {
    names.push_back(set_aside(file).filename().string());
  };
  remove_left_over_temporaries(folder_, {config_name, metrics_name, sign_name});

  // 1. What was computed after the step that the run goes on from, or before it begins anew:
  // --resume auto must not take it for this run's, and nothing of it is lost.
  for (const std::string& name : names_of_run_files(folder_)) {
    const std::optional<std::int64_t> its_step = step_of_checkpoint(name);
    if (its_step && (!step || *its_step > *step || !is_plain_file(folder_ / name)))
      put_aside(folder_ / name);
  }
  const fs::path best = folder_ / best_name;
  const std::optional<RunProgress> in_best = progress_of_best();
  if (is_there(best) && (!step || !in_best || in_best->step > *step || !is_plain_file(best)))
    put_aside(best);

  // 2. What others put in the way of this run's files.
  const fs::path latest = folder_ / latest_name;
  if (is_there(latest) && !is_link_of_run(latest)) put_aside(latest);
  const fs::path ini = folder_ / config_name;
  if (is_there(ini) && !(is_plain_file(ini) && is_config_ini_of_run(ini))) put_aside(ini);
  const fs::path log = folder_ / metrics_name;
  std::error_code ignored;
  const bool is_ours =
      is_plain_file(log) && (fs::file_size(log, ignored) == 0 || is_log_of_run(log));
  if (is_there(log) && !is_ours) put_aside(log);
  const std::vector<fs::path> left = list_checkpoints(folder_);
  if (left.empty()) {
    fs::remove(latest, ignored);
  } else {
    publish_link(left.back(), latest);
  }

  // 3. The run's own.
  write_config_ini(ini, config);
  metrics_ = MetricsFile(log, step.value_or(-1), num_rewinds, metrics_.take_kept());

  std::vector<std::string> lines;
  if (!names.empty()) lines.push_back(fmt::format("set aside: {}", fmt::join(names, ", ")));
  if (metrics_.num_left_behind() > 0)
    lines.push_back(fmt::format("moved {} lines of {} to {}",
                                format_count(metrics_.num_left_behind()), metrics_name,
                                metrics_.left_behind().filename().string()));
  return lines;
}

std::optional<RunProgress> RunFolder::progress_of_best() const {
  const fs::path best = folder_ / best_name;
  if (!is_there(best)) return std::nullopt;
  try {
    const CheckpointReader reader(best, CheckpointReader::Checksums::ignore);
    return from_attributes(reader.progress(), best.string());
  } catch (const Error&) {
    return std::nullopt;  // Damaged, or not ours.
  }
}

double RunFolder::best_accuracy() const {
  const std::optional<RunProgress> best = progress_of_best();
  return best ? best->best_accuracy : 0;
}

void RunFolder::publish(std::int64_t step, int keep, std::optional<std::int64_t> needed) {
  publish_link(folder_ / checkpoint_name(step), folder_ / latest_name);
  if (keep == 0) return;
  wait_for_removal();
  const std::vector<fs::path> files = list_checkpoints(folder_);
  std::vector<fs::path> old;
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < files.size(); ++i) {
    if (needed && files[i].filename() == checkpoint_name(*needed)) continue;
    if (is_plain_file(files[i]) && content_of(files[i]) == FileContent::checkpoint)
      old.push_back(files[i]);
  }
  if (old.empty()) return;
  removal_ = std::async(std::launch::async, [old = std::move(old)] {
    std::error_code ignored;  // A file that can't be removed costs space alone.
    for (const fs::path& file : old) fs::remove(file, ignored);
  });
}

void RunFolder::wait_for_removal() const {
  if (removal_.valid()) removal_.wait();
}

void RunFolder::check_held() const {
  if (!lock_->held())
    throw run_error(
        "{}: another run has taken the folder, since this one gave no sign of life for too long; "
        "it stops so "
        "that their files do not mix",
        folder_.string());
}

fs::path default_run_folder(const std::string& name, bool existing) {
  const fs::path first = fs::path("runs") / name;
  fs::path path = first, last_with_run = first;
  for (int number = 2; is_taken(path); ++number) {
    last_with_run = path;
    path = fmt::format("{}-{}", first.string(), number);
  }
  return existing ? last_with_run : path;
}

}  // namespace revode
