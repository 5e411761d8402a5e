#include "revode/train/start_point.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "revode/config/run_plan.hpp"
#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/files/host.hpp"
#include "revode/train/stored_options.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;

/// runs/<arch>-<depth>-<dataset>, or the like with a number.
fs::path default_output(const Config& config, bool existing) {
  return default_run_folder(model_name(config), existing);
}

/// Empty where only the checkpoint's config can tell.
fs::path find_output(const Config& config) {
  if (!config.output.empty()) return config.output;
  if (config.resume.empty()) return {};
  if (config.resumes_newest()) return default_output(config, true);
  std::error_code ignored;
  const fs::path folder = fs::weakly_canonical(config.resume, ignored).parent_path();
  return folder.empty() ? fs::path(".") : folder;
}

/// Rank 0 alone.
void find_start(const Config& config, StartPoint& start) {
  using Kind = StartPoint::Kind;
  if (!config.checkpoint.empty()) {
    start.kind = Kind::weights;
    start.file = config.checkpoint;
  } else if (config.resumes_newest()) {
    start.file = start.folder->newest_complete_checkpoint().string();
    start.kind = start.file.empty() ? Kind::fresh : Kind::resume;
    start.begins_anew = start.file.empty() && start.folder->holds_results();
  } else if (!config.resume.empty()) {
    start.kind = Kind::resume;
    start.file = config.resume;
  }
}

/// The run that the checkpoint is of goes on in its own folder.
bool goes_on_in_place(const StartPoint& start) {
  if (start.kind != StartPoint::Kind::resume) return false;
  std::error_code ignored;
  return fs::equivalent(fs::weakly_canonical(start.file, ignored).parent_path(),
                        start.folder->path(), ignored);
}

void check_that_results_stay(const Config& config, const StartPoint& start) {
  REVODE_REQUIRE(
      goes_on_in_place(start) || config.resumes_newest() || !start.folder->holds_results(),
      "--output {}: holds the results of another run; choose another folder, or go on with that "
      "run by "
      "--resume auto",
      start.folder->path().string());
}

}  // namespace

StartPoint choose_start(Config& config, const Communicator& communicator) {
  StartPoint start;

  // 1. Rank 0 looks at the files, so that all ranks decide alike on file systems that show changes
  // late.
  communicator.agree([&] {
    if (!communicator.is_root()) return;
    if (const fs::path folder = find_output(config); !folder.empty())
      start.folder = std::make_unique<RunFolder>(folder);
    find_start(config, start);
  });
  start.kind = static_cast<StartPoint::Kind>(
      std::stoi(communicator.broadcast(std::to_string(static_cast<int>(start.kind)), 0)));
  start.file = communicator.broadcast(start.file, 0);

  // 2. Options that were not given come from the checkpoint.
  if (start.kind == StartPoint::Kind::fresh) {
    communicator.agree([&] { check_config(config); });
  } else {
    const bool verified = config.resumes_newest();  // when it was chosen
    fill_from_checkpoint(
        config, start.kind == StartPoint::Kind::resume ? StoredUse::resume : StoredUse::model,
        start.file,
        verified ? CheckpointReader::Checksums::ignore : CheckpointReader::Checksums::verify,
        communicator);
  }

  // 3. The folder.
  communicator.agree([&] {
    if (!communicator.is_root()) return;
    if (!start.folder) start.folder = std::make_unique<RunFolder>(default_output(config, false));
    check_that_results_stay(config, start);
  });
  const std::string folder = start.folder ? start.folder->path().string() : "";
  config.output = communicator.broadcast(folder, 0);
  check_folder_is_shared("--output", config.output, communicator);
  return start;
}

namespace {

/// A file in the folder with a name that nobody else has, for a moment; nothing where it can't be
/// made, for which errno has the reason.
std::optional<std::string> make_sign(const fs::path& folder) {
  std::string sign = (folder / fmt::format(".{}.XXXXXX.tmp", RunFolder::sign_name)).string();
  const int descriptor = ::mkstemps(sign.data(), static_cast<int>(std::strlen(".tmp")));
  if (descriptor < 0) return std::nullopt;
  ::close(descriptor);
  return sign;
}

bool comes_to_see(const fs::path& sign, std::chrono::milliseconds patience) {
  constexpr auto pause = std::chrono::milliseconds(100);
  const auto begin = std::chrono::steady_clock::now();
  std::error_code ignored;
  bool seen = fs::exists(sign, ignored);
  while (!seen && std::chrono::steady_clock::now() - begin < patience) {
    std::this_thread::sleep_for(pause);
    seen = fs::exists(sign, ignored);
  }
  return seen;
}

}  // namespace

void check_folder_is_shared(const std::string& option, const fs::path& folder,
                            const Communicator& communicator) {
  if (communicator.size() == 1) return;
  std::string sign;
  communicator.agree([&] {
    if (!communicator.is_root()) return;
    const std::optional<std::string> made = make_sign(folder);
    if (!made)
      throw input_error("{} {}: can't be written to: {}", option, folder.string(),
                        std::strerror(errno));
    sign = *made;
  });
  sign = communicator.broadcast(sign, 0);
  const std::string place_of_root = communicator.broadcast(place_of_process(), 0);
  const bool seen = comes_to_see(sign, std::chrono::seconds(10));
  std::exception_ptr failure;
  try {
    communicator.agree([&] {
      REVODE_REQUIRE(seen,
                     "{} {}: {} does not see the folder of rank 0, which is {}: name one on a file "
                     "system that all "
                     "nodes share, by its whole path",
                     option, folder.string(), place_of_process(), place_of_root);
    });
  } catch (...) {
    failure = std::current_exception();
  }
  std::error_code ignored;
  if (communicator.is_root()) fs::remove(sign, ignored);
  if (failure) std::rethrow_exception(failure);
}

bool is_folder_shared(const fs::path& folder, const Communicator& communicator) {
  std::string mine;
  if (communicator.is_root()) mine = make_sign(folder).value_or("");
  const std::string sign = communicator.broadcast(mine, 0);
  const bool seen = !sign.empty() && comes_to_see(sign, std::chrono::seconds(1));
  const std::vector<std::int64_t> all = communicator.all_gather(std::int64_t{seen});
  std::error_code ignored;
  if (communicator.is_root() && !sign.empty()) fs::remove(sign, ignored);
  return std::ranges::find(all, 0) == all.end();
}

}  // namespace revode
