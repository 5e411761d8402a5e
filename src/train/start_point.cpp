// Which checkpoint a run starts from, and where it writes.
#include <filesystem>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/io/checkpoint.hpp"
#include "revode/io/metrics.hpp"
#include "revode/train/trainer.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;

bool holds_results(const fs::path& folder) {
  return fs::exists(folder / "metrics.jsonl") || !list_checkpoints(folder).empty();
}

/// runs/<arch>-<depth>-<dataset>, followed by -2, -3, ... where that holds results already.
fs::path default_output(const Config& config, bool want_existing) {
  const Architecture architecture = make_architecture(config);
  const fs::path first =
      fs::path("runs") / fmt::format("{}-{}-{}", config.arch, architecture.depth(), config.dataset);
  fs::path path = first, last_with_results = first;
  for (int number = 2; holds_results(path); ++number) {
    last_with_results = path;
    path = fmt::format("{}-{}", first.string(), number);
  }
  return want_existing ? last_with_results : path;
}

/// The newest checkpoint of the folder that can be read; damaged ones are named and passed over.
std::string newest_complete(const fs::path& folder) {
  std::vector<fs::path> files = list_checkpoints(folder);
  for (auto file = files.rbegin(); file != files.rend(); ++file) {
    try {
      const CheckpointReader reader(*file);
      from_attributes(reader.progress(), file->string());
      return file->string();
    } catch (const Error& error) {
      print_note(fmt::format("passing over a checkpoint: {}", error.what()));
    }
  }
  return {};
}

StartPoint find_start(const Config& config, const fs::path& output) {
  REVODE_REQUIRE(config.resume.empty() || config.checkpoint.empty(),
                 "--resume and --checkpoint both name where to start: --resume goes on with a run, "
                 "--checkpoint starts a new "
                 "one from its weights; give one");
  if (!config.checkpoint.empty()) return {StartPoint::Kind::weights, config.checkpoint};
  if (config.resume.empty()) return {};
  if (config.resume != "auto") return {StartPoint::Kind::resume, config.resume};
  const std::string newest = newest_complete(output);
  if (newest.empty()) return {};
  return {StartPoint::Kind::resume, newest};
}

fs::path find_output(const Config& config) {
  if (!config.output.empty()) return config.output;
  if (config.resume.empty()) return {};  // known once a checkpoint has filled the config
  if (config.resume == "auto") return default_output(config, true);
  const fs::path folder = fs::weakly_canonical(config.resume).parent_path();
  return folder.empty() ? fs::path(".") : folder;
}

}  // namespace

StartPoint choose_start(Config& config, const Communicator& communicator) {
  // Rank 0 looks at the files, so that all ranks decide alike on file systems that show changes
  // late.
  std::string file, output, stored;
  int kind = 0;
  communicator.agree([&] {
    if (!communicator.is_root()) return;
    const fs::path folder = find_output(config);
    const StartPoint start = find_start(config, folder);
    kind = static_cast<int>(start.kind);
    file = start.file;
    output = folder.string();
    if (file.empty()) return;
    const bool verified = config.resume == "auto";
    const CheckpointReader reader(
        file, verified ? CheckpointReader::Checksums::ignore : CheckpointReader::Checksums::verify);
    note_missing_checksums(reader, file);
    stored = reader.config().dump();
  });
  StartPoint start{
      static_cast<StartPoint::Kind>(std::stoi(communicator.broadcast(std::to_string(kind), 0))),
      communicator.broadcast(file, 0)};
  config.output = communicator.broadcast(output, 0);
  stored = communicator.broadcast(stored, 0);
  communicator.agree([&] {
    if (start.kind == StartPoint::Kind::fresh) {
      check_config(config);
    } else {
      apply_stored(config, nlohmann::json::parse(stored),
                   start.kind == StartPoint::Kind::resume ? StoredUse::resume : StoredUse::model,
                   start.file);
    }
  });

  communicator.agree([&] {
    if (!communicator.is_root()) return;
    output = config.output.empty() ? default_output(config, false).string() : config.output;
    const bool goes_on =
        start.kind == StartPoint::Kind::resume &&
        fs::weakly_canonical(start.file).parent_path() == fs::weakly_canonical(output);
    // `--resume auto` found nothing to go on from: a run that ended before its first checkpoint.
    const bool starts_afresh = config.resume == "auto" && start.kind == StartPoint::Kind::fresh;
    REVODE_REQUIRE(goes_on || starts_afresh || !holds_results(output),
                   "--output {}: holds the results of another run; choose another folder, or go on "
                   "with that run by --resume "
                   "auto",
                   output);
    std::error_code failure;
    fs::create_directories(output, failure);
    REVODE_REQUIRE(!failure, "--output {}: the folder can't be made: {}", output,
                   failure.message());
  });
  config.output = communicator.broadcast(output, 0);
  return start;
}

std::string set_aside_later_checkpoints(const fs::path& folder, std::int64_t step) {
  constexpr std::size_t prefix = std::string_view("checkpoint-").size();
  std::vector<std::string> names;
  for (const fs::path& file : list_checkpoints(folder)) {
    if (std::stoll(file.stem().string().substr(prefix)) <= step) continue;
    names.push_back(file.filename().string());
    fs::rename(file, file.string() + ".left-behind");
  }
  if (names.empty()) return {};
  const fs::path latest = folder / "latest.h5";
  const std::vector<fs::path> left = list_checkpoints(folder);
  if (left.empty()) {
    fs::remove(latest);
  } else {
    publish_link(left.back(), latest);
  }
  return fmt::format("set aside as *.left-behind, being of steps beyond {}: {}\n", step,
                     fmt::join(names, ", "));
}

}  // namespace revode
