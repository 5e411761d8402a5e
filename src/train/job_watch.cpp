#include "revode/train/job_watch.hpp"

#include <random>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "revode/files/host.hpp"
#include "revode/train/start_point.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;

HangWatch::Job job_of(const Communicator& world) {
  const std::string place = fmt::format("process {} on {}", ::getpid(), host_name());
  return {.rank = world.rank(),
          .places = world.all_gather(place),
          .name = world.broadcast(fmt::format("{} at {}", place, utc_time()), 0)};
}

bool is_on_one_host(const Communicator& world) {
  bool all = true;
  for (const std::int64_t ranks :
       world.all_gather(static_cast<std::int64_t>(world.ranks_of_host().size())))
    all = all && ranks == world.size();
  return all;
}

/// One that all ranks see, and that nobody else has; it is not there yet.
ReportFolder folder_of_job(const Communicator& world) {
  std::error_code ignored;
  std::vector<fs::path> places{fs::current_path(ignored)};
  if (is_on_one_host(world)) places.insert(places.begin(), fs::temp_directory_path(ignored));
  const std::string name = fmt::format("revode-hang-{:08x}", std::random_device{}());
  for (const fs::path& place : places) {
    const fs::path of_root = world.broadcast(place.string(), 0);
    if (!of_root.empty() && is_folder_shared(of_root, world))
      return {.path = world.broadcast((of_root / name).string(), 0), .is_of_watch = true};
  }
  return {};
}

std::optional<HangWatch> watch(HangWatch::Job job, ReportFolder folder,
                               std::optional<double> seconds) {
  return std::optional<HangWatch>(std::in_place, std::move(job), std::move(folder), seconds,
                                  end_hanging_job);
}

}  // namespace

std::optional<HangWatch> watch_over_run(const Config& config, const Communicator& world) {
  if (config.hang_timeout == 0) return std::nullopt;
  return watch(job_of(world), {.path = config.output}, config.hang_timeout);
}

std::optional<HangWatch> watch_over_command(const Config& config, const Communicator& world) {
  const bool is_wanted = config.command != Command::analyze || config.hang_timeout.has_value();
  if (config.hang_timeout == 0 || !is_wanted) return std::nullopt;
  return watch(job_of(world), folder_of_job(world), config.hang_timeout);
}

}  // namespace revode
