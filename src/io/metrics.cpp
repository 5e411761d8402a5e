#include "revode/io/metrics.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "revode/core/error.hpp"

namespace revode {
namespace {

/// The lines of `file` up to `last_step`; a last line that is no JSON object was cut off by a kill.
std::vector<std::string> lines_until(const std::filesystem::path& file, std::int64_t last_step) {
  std::vector<std::string> lines;
  std::ifstream input(file);
  for (std::string line; std::getline(input, line);) {
    const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || record.value("step", std::int64_t{0}) > last_step) continue;
    if (record.value("kind", "") == "end") continue;  // of a run that now goes on
    lines.push_back(std::move(line));
  }
  return lines;
}

enum class Terminal { yes, no, unknown };

/// Open MPI gives every rank a terminal of its own as standard output, whatever its own output is:
/// behind mpirun, what counts is where the parent process writes the same stream. Unknown where the
/// parent can't be asked (a daemon on another node).
Terminal terminal_behind(std::FILE* stream) {
  const int descriptor = fileno(stream);
  if (isatty(descriptor) == 0) return Terminal::no;
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return Terminal::yes;
  const std::string parent = fmt::format("/proc/{}", getppid());
  std::string name;
  std::getline(std::ifstream(parent + "/comm") >> std::ws, name);
  std::error_code failure;
  const std::string target =
      std::filesystem::read_symlink(fmt::format("{}/fd/{}", parent, descriptor), failure).string();
  if (failure || name == "orted" || name == "prted") return Terminal::unknown;
  return target.starts_with("/dev/pts/") || target.starts_with("/dev/tty") ? Terminal::yes
                                                                           : Terminal::no;
}

}  // namespace

MetricsFile::MetricsFile(const std::filesystem::path& file, std::int64_t last_step) : path_(file) {
  const std::vector<std::string> kept = lines_until(file, last_step);
  const std::filesystem::path temporary = file.string() + ".tmp";
  {
    std::ofstream output(temporary);
    for (const std::string& line : kept) output << line << '\n';
    output.flush();
    if (!output)
      throw run_error("{}: can't be written: {}", temporary.string(), std::strerror(errno));
  }
  std::error_code failure;
  std::filesystem::rename(temporary, file, failure);
  if (failure)
    throw run_error("{}: can't be renamed to {}: {}", temporary.string(), file.string(),
                    failure.message());
  file_ = std::fopen(file.c_str(), "a");
  if (file_ == nullptr)
    throw run_error("{}: can't be opened: {}", file.string(), std::strerror(errno));
}

MetricsFile::~MetricsFile() {
  if (file_ != nullptr) std::fclose(file_);
}

MetricsFile::MetricsFile(MetricsFile&& other) noexcept
    : file_(std::exchange(other.file_, nullptr)), path_(std::move(other.path_)) {}

MetricsFile& MetricsFile::operator=(MetricsFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(path_, other.path_);
  return *this;
}

void MetricsFile::write(const nlohmann::ordered_json& record) {
  if (file_ == nullptr) return;
  const std::string line = record.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0)
    throw run_error("{}: can't be written: {}", path_.string(), std::strerror(errno));
}

void write_json(const std::string& destination, const nlohmann::ordered_json& result) {
  const std::string text = result.dump(2) + "\n";
  if (destination == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    return;
  }
  const std::string temporary = destination + ".tmp";
  {
    std::ofstream output(temporary);
    output << text;
    output.flush();
    if (!output)
      throw run_error("--json {}: can't be written: {}", destination, std::strerror(errno));
  }
  std::error_code failure;
  std::filesystem::rename(temporary, destination, failure);
  if (failure) throw run_error("--json {}: can't be written: {}", destination, failure.message());
}

std::FILE* text_stream(const std::string& json) { return json == "-" ? stderr : stdout; }

ProgressStyle progress_style(const std::string& setting, std::FILE* stream) {
  if (setting == "off") return ProgressStyle::off;
  switch (terminal_behind(stream)) {
    case Terminal::yes:
      return ProgressStyle::live;
    case Terminal::no:
      return ProgressStyle::lines;
    case Terminal::unknown:
      return setting == "on" ? ProgressStyle::live : ProgressStyle::lines;
  }
  return ProgressStyle::lines;
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds)) return "unknown";
  if (seconds < 60) return fmt::format("{:.0f} s", seconds);
  if (seconds < 3600) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 48 * 3600) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.1f} days", seconds / 86400);
}

std::string format_bytes(double bytes) {
  constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 4; ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

std::string format_count(std::int64_t count) {
  std::string digits = std::to_string(std::abs(count));
  for (int position = static_cast<int>(digits.size()) - 3; position > 0; position -= 3)
    digits.insert(position, ",");
  return count < 0 ? "-" + digits : digits;
}

void ProgressLine::update(const std::string& text) {
  if (style_ != ProgressStyle::live) return;
  const auto now = std::chrono::steady_clock::now();
  if (live_ && now - last_update_ < std::chrono::milliseconds(100)) return;
  last_update_ = now;
  // Carriage return, text, erase to the end of the line.
  fmt::print(stream_, "\r{}\x1b[K", text);
  std::fflush(stream_);
  live_ = true;
}

void ProgressLine::clear() {
  if (!live_) return;
  fmt::print(stream_, "\r\x1b[K");
  live_ = false;
}

void ProgressLine::print(const std::string& text) {
  if (style_ == ProgressStyle::off) return;
  clear();
  fmt::print(stream_, "{}\n", text);
  std::fflush(stream_);
}

void ProgressLine::finish() {
  if (live_) {
    fmt::print(stream_, "\n");
    std::fflush(stream_);
  }
  live_ = false;
}

}  // namespace revode
