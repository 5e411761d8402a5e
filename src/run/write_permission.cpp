#include "revode/run/write_permission.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <fstream>
#include <optional>
#include <thread>

#include <fcntl.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "revode/checkpoint/checkpoint_files.hpp"
#include "revode/checkpoint/file_content.hpp"
#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"
#include "revode/files/text_file.hpp"

namespace revode {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* config_ini_header =
    "# Written by revode at each start of the run in this folder; change a copy of it.";

constexpr const char* machine_format = "revode-machine";

/// Viewers pass over metadata that they do not know.
constexpr const char* trace_header = R"([{"name":"trace of revode","ph":"M","pid":0,"args":{}})";

/// The records of a metrics.jsonl; a line that is none is left out.
template <typename Visit>
void for_each_record(const fs::path& file, Visit visit) {
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    const auto record = parse_json(line);
    if (record.is_object() && record.contains("kind") && record.contains("step") && visit(record))
      return;
  }
}

bool has_record(const fs::path& file, bool of_results) {
  bool found = false;
  for_each_record(file, [&](const nlohmann::json& record) {
    found = !of_results || record["kind"] != "start";
    return found;
  });
  return found;
}

bool has_checkpoint(const fs::path& folder) {
  const std::vector<fs::path> files = list_checkpoints(folder);
  return std::ranges::any_of(
      files, [](const fs::path& file) { return content_of(file) == FileContent::checkpoint; });
}

/// Folders that `path` lies in, the nearest first.
std::vector<fs::path> folders_above(const fs::path& path) {
  std::error_code ignored;
  std::vector<fs::path> folders;
  fs::path folder = fs::weakly_canonical(fs::absolute(path, ignored), ignored).parent_path();
  for (; !folder.empty(); folder = folder.parent_path()) {
    folders.push_back(folder);
    if (folder == folder.parent_path()) break;
  }
  return folders;
}

/// The descriptor of this process that the path names: /dev/stdout, /dev/fd/5.
std::optional<int> own_descriptor(const fs::path& path) {
  const std::string text = path.string();
  if (text == "/dev/stdout") return STDOUT_FILENO;
  if (text == "/dev/stderr") return STDERR_FILENO;
  for (const std::string_view prefix : {"/dev/fd/", "/proc/self/fd/"}) {
    if (!text.starts_with(prefix)) continue;
    int descriptor = 0;
    const char* end = text.data() + text.size();
    const auto [parsed, error] = std::from_chars(text.data() + prefix.size(), end, descriptor);
    if (error == std::errc{} && parsed == end) return descriptor;
  }
  return std::nullopt;
}

bool is_stream(const fs::path& path) {
  struct stat status {};
  return own_descriptor(path) || (::stat(path.c_str(), &status) == 0 &&
                                  (S_ISCHR(status.st_mode) || S_ISFIFO(status.st_mode)));
}

enum class ResultFormat { json, hdf5, trace, machine };

/// A result file that the options ask for, and everything that decides about it.
struct Request {
  std::string option;  ///< "--json"
  fs::path given;      ///< as the user wrote it
  fs::path path;       ///< behind links
  ResultFormat format;
  const Config& config;

  std::string name() const { return fmt::format("{} {}", option, given.string()); }
};

bool is_json_result_of(const fs::path& file, std::string_view command) {
  std::ifstream stream(file);
  const auto json = parse_json(stream);
  return json.is_object() && json.value("command", nlohmann::json()) == command &&
         json.value("version", nlohmann::json()).is_string();
}

bool is_result_of_same_kind(const Request& request) {
  if (request.format == ResultFormat::json)
    return is_json_result_of(request.path, to_string(request.config.command));
  if (request.format == ResultFormat::trace)
    return first_line(request.path).starts_with(trace_header);
  if (request.format == ResultFormat::machine) {
    std::ifstream stream(request.path);
    const auto json = parse_json(stream);
    return json.is_object() && json.value("format", nlohmann::json()) == machine_format;
  }
  const FileContent wanted = request.config.command == Command::eval ? FileContent::eval_result
                                                                     : FileContent::gradient_result;
  return content_of(request.path) == wanted;
}

void check_not_an_input(const Request& request) {
  const Config& config = request.config;
  const std::pair<const char*, const std::string&> inputs[] = {{"--checkpoint", config.checkpoint},
                                                               {"--resume", config.resume},
                                                               {"--machine", config.machine},
                                                               {"--config", config.config_file}};
  for (const auto& [option, file] : inputs) {
    std::error_code ignored;
    REVODE_REQUIRE(file.empty() || !fs::equivalent(request.path, file, ignored),
                   "{}: that is the file of {} {}, which would be lost; name another file",
                   request.name(), option, file);
  }
}

void check_outside_runs(const Request& request) {
  std::error_code ignored;
  const bool trains = request.config.command == Command::train && !request.config.output.empty();
  const fs::path own =
      trains ? fs::weakly_canonical(fs::absolute(request.config.output, ignored), ignored)
             : fs::path();
  for (const fs::path& folder : folders_above(request.path))
    REVODE_REQUIRE(
        folder != own && !holds_run(folder),
        "{}: that is inside '{}', the folder of a run, which nothing but the run writes to; name a "
        "file elsewhere",
        request.name(), folder.string());
}

/// Refuses what can be known to fail.
void check_can_be_made(const Request& request) {
  const fs::path folder =
      request.path.has_parent_path() ? request.path.parent_path() : fs::path(".");
  struct stat status {};
  if (::stat(folder.c_str(), &status) != 0)
    throw input_error("{}: can't be written: '{}': {}", request.name(), folder.string(),
                      std::strerror(errno));
  REVODE_REQUIRE(S_ISDIR(status.st_mode), "{}: can't be written: '{}' is not a folder",
                 request.name(), folder.string());
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    throw input_error("{}: can't be written: '{}': {}", request.name(), folder.string(),
                      std::strerror(errno));
  const bool fits = ::lstat(request.path.c_str(), &status) == 0 || errno == ENOENT;
  if (!fits) throw input_error("{}: can't be written: {}", request.name(), std::strerror(errno));
}

void check_stream(const Request& request) {
  REVODE_REQUIRE(request.format == ResultFormat::json,
                 "{}: that is a device or a FIFO, and {} needs a regular file", request.name(),
                 request.format == ResultFormat::hdf5    ? "HDF5"
                 : request.format == ResultFormat::trace ? "a trace"
                                                         : "a machine file");
  if (const std::optional<int> descriptor = own_descriptor(request.path)) {
    const int flags = ::fcntl(*descriptor, F_GETFL);
    REVODE_REQUIRE(flags >= 0, "{}: can't be written: it is not open", request.name());
    REVODE_REQUIRE((flags & O_ACCMODE) != O_RDONLY,
                   "{}: can't be written: it is open for reading alone", request.name());
  } else if (::access(request.path.c_str(), W_OK) != 0) {
    throw input_error("{}: can't be written: {}", request.name(), std::strerror(errno));
  }
}

void check(const Request& request) {
  if (is_stream(request.path)) {
    check_stream(request);
    return;
  }
  check_outside_runs(request);
  check_can_be_made(request);
  struct stat status {};
  const bool exists = ::stat(request.path.c_str(), &status) == 0;
  REVODE_REQUIRE(!exists || !S_ISDIR(status.st_mode), "{}: that is a folder, expected a file name",
                 request.name());
  if (exists) check_not_an_input(request);
  if (!exists) return;
  REVODE_REQUIRE(S_ISREG(status.st_mode), "{}: that is no regular file", request.name());
  REVODE_REQUIRE(is_result_of_same_kind(request),
                 "{}: the file is there and no earlier result of revode {}, so it stays as it is; "
                 "name another, "
                 "or remove it",
                 request.name(), to_string(request.config.command));
}

std::vector<Request> requests_of(const Config& config) {
  std::vector<Request> requests;
  const auto add = [&](const char* option, const std::string& path, ResultFormat format) {
    requests.push_back({option, path, behind_links(path), format, config});
  };
  const bool has_output = config.command == Command::eval || config.command == Command::gradient;
  if (has_output && !config.output.empty()) add("--output", config.output, ResultFormat::hdf5);
  if (config.json_to_file()) add("--json", config.json, ResultFormat::json);
  if (!config.trace.empty()) add("--trace", config.trace, ResultFormat::trace);
  if (!config.machine_file.empty())
    add("--machine-file", config.machine_file, ResultFormat::machine);
  return requests;
}

/// Opens a device or FIFO to write to. A FIFO without a reader is given some time to find one.
int open_stream(const fs::path& path) {
  constexpr auto patience = std::chrono::seconds(10);
  const auto begin = std::chrono::steady_clock::now();
  for (;;) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (descriptor >= 0) {
      ::fcntl(descriptor, F_SETFL, ::fcntl(descriptor, F_GETFL) & ~O_NONBLOCK);
      return descriptor;
    }
    const bool unread = errno == ENXIO && std::chrono::steady_clock::now() - begin < patience;
    if (!unread) return -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

void write_stream(const Request& request, std::string_view text) {
  const std::optional<int> own = own_descriptor(request.path);
  const int descriptor = own ? *own : open_stream(request.path);
  const bool written = descriptor >= 0 && write_all(descriptor, text);
  const int reason = errno;
  if (!own && descriptor >= 0) ::close(descriptor);
  if (!written)
    throw run_error("{}: can't be written: {}", request.name(),
                    reason == ENXIO ? "nobody reads from it" : std::strerror(reason));
}

}  // namespace

bool is_log_of_run(const fs::path& file) { return has_record(file, /*of_results=*/false); }

bool is_config_ini_of_run(const fs::path& file) { return first_line(file) == config_ini_header; }

void write_config_ini(const fs::path& file, const Config& config) {
  write_text_file(file, fmt::format("{}\n\n{}", config_ini_header, config_to_ini(config)),
                  file.string());
}

bool holds_run(const fs::path& folder) {
  return is_config_ini_of_run(folder / "config.ini") || is_log_of_run(folder / "metrics.jsonl") ||
         has_checkpoint(folder);
}

bool holds_results(const fs::path& folder) {
  return has_record(folder / "metrics.jsonl", /*of_results=*/true) ||
         !list_checkpoints(folder).empty();
}

std::vector<std::string> names_of_run_files(const fs::path& folder) {
  std::vector<std::string> names;
  for (const char* name : {"config.ini", "metrics.jsonl", "latest.h5", "best.h5"}) {
    struct stat status {};
    if (::lstat((folder / name).c_str(), &status) != 0) continue;
    const bool empty_log =
        std::string_view(name) == "metrics.jsonl" && S_ISREG(status.st_mode) && status.st_size == 0;
    if (!empty_log) names.emplace_back(name);
  }
  std::error_code failure;
  for (fs::directory_iterator item(folder, failure), end; !failure && item != end;
       item.increment(failure))
    if (step_of_checkpoint(item->path().filename().string()))
      names.push_back(item->path().filename().string());
  std::ranges::sort(names);
  return names;
}

fs::path behind_links(const fs::path& path) {
  constexpr int most_links = 40;  // as Linux has it
  fs::path target = path;
  std::error_code failure;
  for (int links = 0;
       links < most_links && !own_descriptor(target) && fs::is_symlink(target, failure); ++links) {
    const fs::path next = fs::read_symlink(target, failure);
    target = next.is_absolute() ? next : target.parent_path() / next;
  }
  return target;
}

void check_result_files(const Config& config) {
  const std::vector<Request> requests = requests_of(config);
  for (const Request& request : requests) check(request);
  std::error_code ignored;
  const auto same = [&](const Request& one, const Request& other) {
    return fs::weakly_canonical(fs::absolute(one.path, ignored), ignored) ==
               fs::weakly_canonical(fs::absolute(other.path, ignored), ignored) ||
           fs::equivalent(one.path, other.path, ignored);
  };
  for (std::size_t i = 0; i < requests.size(); ++i)
    for (std::size_t j = i + 1; j < requests.size(); ++j)
      REVODE_REQUIRE(!same(requests[i], requests[j]), "{} and {} are the same file: name two",
                     requests[i].name(), requests[j].name());
}

void write_machine_file(const Config& config, const Json& machine) {
  const Request request{"--machine-file", config.machine_file, behind_links(config.machine_file),
                        ResultFormat::machine, config};
  check(request);  // again: a bench may take hours
  Json whole{{"format", machine_format}, {"version", 1}};
  whole.update(machine);
  write_text_file(request.path, to_text(whole, 2) + "\n", request.name());
}

void write_trace(const Config& config, std::string_view events) {
  const Request request{"--trace", config.trace, behind_links(config.trace), ResultFormat::trace,
                        config};
  check(request);  // again: a run may take days
  const std::string text = fmt::format("{},\n{}\n]\n", trace_header, events);
  write_text_file(request.path, text, request.name());
}

void write_json_result(const Config& config, const Json& result) {
  if (config.json.empty()) return;
  Json whole{{"command", to_string(config.command)}, {"version", version_text()}};
  whole.update(result);
  const std::string text = to_text(whole, 2) + "\n";
  if (config.json_to_stdout()) {
    print_result(text);
    return;
  }
  const Request request{"--json", config.json, behind_links(config.json), ResultFormat::json,
                        config};
  check(request);  // again: a run may take days
  if (is_stream(request.path)) {
    write_stream(request, text);
  } else {
    write_text_file(request.path, text, request.name());
  }
}

}  // namespace revode
