#include "revode/run/run_log.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "revode/core/console.hpp"

namespace revode {
namespace {

enum class Terminal { yes, no, unknown };

/// Where a stream of this process ends up, as far as it can be told.
struct Destination {
  Terminal terminal = Terminal::no;
  std::string device;  ///< the terminal's, where that is another than the stream's own
};

/// Open MPI gives every rank a terminal of its own as standard output, whatever its own output is:
/// behind mpirun, what counts is where the parent process writes the same stream. Unknown where the
/// parent can't be asked (a daemon on another node).
Destination destination_of(std::FILE* stream) {
  const int descriptor = fileno(stream);
  if (isatty(descriptor) == 0) return {Terminal::no, {}};
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return {Terminal::yes, {}};
  const std::string parent = fmt::format("/proc/{}", getppid());
  std::string name;
  std::getline(std::ifstream(parent + "/comm") >> std::ws, name);
  std::error_code failure;
  const std::string target =
      std::filesystem::read_symlink(fmt::format("{}/fd/{}", parent, descriptor), failure).string();
  if (failure || name == "orted" || name == "prted") return {Terminal::unknown, {}};
  const bool shown = target.starts_with("/dev/pts/") || target.starts_with("/dev/tty");
  return {shown ? Terminal::yes : Terminal::no, shown ? target : ""};
}

/// 0 where the descriptor is no window or does not know its size.
int columns_of(int descriptor) {
  winsize size{};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/// "3 h 20 min": the second unit is left out where it is 0.
std::string two_units(std::int64_t first, const char* first_unit, std::int64_t second,
                      const char* second_unit) {
  const std::string text = fmt::format("{} {}", first, first_unit);
  return second == 0 ? text : fmt::format("{} {} {}", text, second, second_unit);
}

}  // namespace

std::FILE* text_stream(const Config& config) { return config.json_to_stdout() ? stderr : stdout; }

ProgressStyle progress_style(ProgressSetting setting, std::FILE* stream) {
  if (setting == ProgressSetting::off) return ProgressStyle::off;
  switch (destination_of(stream).terminal) {
    case Terminal::yes:
      return ProgressStyle::live;
    case Terminal::no:
      return ProgressStyle::lines;
    case Terminal::unknown:
      return setting == ProgressSetting::on ? ProgressStyle::live : ProgressStyle::lines;
  }
  return ProgressStyle::lines;
}

int window_columns(std::FILE* stream) {
  constexpr int usual_columns = 80;
  int columns = 0;
  const Destination destination = destination_of(stream);
  if (destination.device.empty()) {
    columns = columns_of(fileno(stream));
  } else {
    const int terminal = ::open(destination.device.c_str(), O_RDONLY | O_NOCTTY | O_CLOEXEC);
    if (terminal >= 0) {
      columns = columns_of(terminal);
      ::close(terminal);
    }
  }
  return columns > 0 ? columns : usual_columns;
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds)) return "unknown";
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(seconds, 0.0)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return two_units(whole / 60, "min", whole % 60, "s");
  if (whole < 48 * 3600) return two_units(whole / 3600, "h", whole % 3600 / 60, "min");
  return two_units(whole / 86400, "days", whole % 86400 / 3600, "h");
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

RunLog::RunLog(ProgressStyle style, std::FILE* stream, std::function<int()> columns)
    : style_(style), stream_(stream), columns_(std::move(columns)) {
  if (!columns_) columns_ = [stream] { return window_columns(stream); };
}

void RunLog::write(const std::string& text) {
  if (stream_ == nullptr) return;
  if (std::fwrite(text.data(), 1, text.size(), stream_) == text.size() && std::fflush(stream_) == 0)
    return;
  const int reason = errno;
  const bool was_output = stream_ == stdout;
  stream_ = nullptr;
  print_note(
      fmt::format("the log can't be written to standard {} ({}): training goes on without it",
                  was_output ? "output" : "error", std::strerror(reason)));
}

void RunLog::update(const std::string& text) {
  if (style_ != ProgressStyle::live || stream_ == nullptr) return;
  const auto now = std::chrono::steady_clock::now();
  if (live_ && now - last_update_ < std::chrono::milliseconds(100)) return;
  last_update_ = now;
  // Carriage return, text, erase to the end of the line. The last column stays free: a line that
  // fills the window wraps, and only its second half would be redrawn.
  const auto space = static_cast<std::size_t>(std::max(columns_() - 1, 0));
  write(fmt::format("\r{}\x1b[K", text.substr(0, space)));
  live_ = true;
}

void RunLog::print(const std::string& text) {
  write((live_ ? "\r\x1b[K" : "") + text + "\n");
  live_ = false;
}

void RunLog::finish() {
  if (live_) write("\n");
  live_ = false;
}

}  // namespace revode
