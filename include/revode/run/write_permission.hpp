// The one place that decides whether a path may be written. The rule: never over what revode did
// not make, never over what the run reads, never into the folder of a run but by that run.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "revode/config/config.hpp"

namespace revode {

/// Whether `folder` holds a run of revode's, told from contents: records of one in metrics.jsonl, a
/// config.ini that revode wrote, or a checkpoint named checkpoint-<step>.h5.
bool holds_run(const std::filesystem::path& folder);

/// Whether `folder` holds what a run has computed: a checkpoint, or records of steps or epochs.
bool holds_results(const std::filesystem::path& folder);

/// Names in `folder` that a run writes to: config.ini, metrics.jsonl, latest.h5, best.h5,
/// checkpoint-<step>.h5. An empty metrics.jsonl does not count: a run that was killed at its very
/// beginning leaves one.
std::vector<std::string> names_of_run_files(const std::filesystem::path& folder);

/// Whether the file is a metrics.jsonl with records of a run.
bool is_log_of_run(const std::filesystem::path& file);

/// Writes the resolved options of a run, under a first line that tells the file from anybody
/// else's.
void write_config_ini(const std::filesystem::path& file, const Config& config);
/// Whether write_config_ini() made the file.
bool is_config_ini_of_run(const std::filesystem::path& file);

/// Throws an input error, naming option and path, where the result files that the options ask for
/// (--json; --trace; --machine-file; --output of eval and gradient) may not be written or cannot
/// be: an input of the command, each other, in a run's folder, an existing file that is no result
/// of the same command, a folder, no folder to put it in, no right to write there. For one process;
/// looks only.
void check_result_files(const Config& config);

/// The file that a result goes to: `path` with links followed to what they point to, which need not
/// exist.
std::filesystem::path behind_links(const std::filesystem::path& path);

/// Writes what --trace asks for, so that it is complete or absent: `events`, the items of a JSON
/// array with a comma between, under a first line that tells the file from anybody else's.
void write_trace(const Config& config, std::string_view events);

/// Writes what --machine-file asks for, complete or absent, with the format's name and version in
/// front.
void write_machine_file(const Config& config, const nlohmann::ordered_json& machine);

/// Writes the result of config.command: to standard output for `--json -`, into the device or FIFO
/// where the path is one, else to a file that is complete or absent. The command and the version go
/// in front. Nothing without --json.
void write_json_result(const Config& config, const nlohmann::ordered_json& result);

}  // namespace revode
