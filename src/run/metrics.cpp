#include "revode/run/metrics.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"
#include "revode/files/text_file.hpp"

namespace revode {

namespace {

/// Whether record[key] is a whole number of at most `largest`.
bool is_at_most(const nlohmann::json& record, const char* key, std::int64_t largest) {
  const auto number = record.find(key);
  if (number == record.end() || !number->is_number_integer()) return false;
  // From 2^63 on a comparison would take it for less than 0.
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (number->is_number_unsigned() && number->get<std::uint64_t>() > most) return false;
  return *number <= largest;
}

/// Whether a line is a record of a run that stood at `last_step` or before, after `num_rewinds`.
bool stays(const std::string& line, std::int64_t last_step, std::int64_t num_rewinds) {
  const auto record = parse_json(line);
  if (!record.is_object()) return false;  // cut off by a kill while it was written, or not ours
  const auto kind = record.find("kind");
  if (kind != record.end() && *kind == "end") return false;  // and now the run goes on
  if (kind != record.end() && *kind == "rewind" && !is_at_most(record, "count", num_rewinds))
    return false;
  return record.contains("step") ? is_at_most(record, "step", last_step) : last_step >= 0;
}

/// Whether lines may be added: a new file, or one that earlier ones went to.
bool takes_lines(const std::filesystem::path& file) {
  std::error_code ignored;
  const auto type = std::filesystem::symlink_status(file, ignored).type();
  if (type == std::filesystem::file_type::not_found) return true;
  if (type != std::filesystem::file_type::regular) return false;
  return parse_json(first_line(file)).is_object();
}

}  // namespace

MetricsFile::MetricsFile(const std::filesystem::path& file, std::int64_t last_step,
                         std::int64_t num_rewinds, const std::string& kept)
    : path_(file) {
  std::stringstream lines;
  lines << std::ifstream(file).rdbuf();
  lines.clear();  // of what an empty file, or none, left
  lines << kept;
  std::string staying, cut;
  for (std::string line; std::getline(lines, line);) {
    const bool keep = stays(line, last_step, num_rewinds);
    (keep ? staying : cut) += line + '\n';
    num_left_behind_ += keep ? 0 : 1;
  }
  if (!cut.empty()) {
    left_behind_ = std::filesystem::path(file).concat(left_behind_suffix);
    for (int number = 2; !takes_lines(left_behind_); ++number)
      left_behind_ =
          std::filesystem::path(file).concat(fmt::format("{}-{}", left_behind_suffix, number));
    std::ofstream output(left_behind_, std::ios::app);
    output << cut << std::flush;
    if (!output)
      throw run_error("{}: can't be written: {}", left_behind_.string(), std::strerror(errno));
  }
  write_text_file(file, staying, file.string());
  file_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) throw run_error("{}: can't be opened: {}", file.string(), std::strerror(errno));
}

MetricsFile::~MetricsFile() {
  if (file_ >= 0) ::close(file_);
}

MetricsFile::MetricsFile(MetricsFile&& other) noexcept
    : file_(std::exchange(other.file_, -1)),
      kept_(std::move(other.kept_)),
      path_(std::move(other.path_)),
      num_left_behind_(other.num_left_behind_),
      left_behind_(std::move(other.left_behind_)) {}

MetricsFile& MetricsFile::operator=(MetricsFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(kept_, other.kept_);
  std::swap(path_, other.path_);
  std::swap(num_left_behind_, other.num_left_behind_);
  std::swap(left_behind_, other.left_behind_);
  return *this;
}

void MetricsFile::write(const nlohmann::ordered_json& record) {
  if (file_ < 0) return;
  kept_ += to_text(record) + "\n";
  flush();
}

void MetricsFile::flush() {
  // Not through stdio, which forgets what it could not write. What the system took of a line is
  // followed by the rest of it.
  std::size_t written = 0;
  while (written < kept_.size()) {
    const ssize_t part = ::write(file_, kept_.data() + written, kept_.size() - written);
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) break;
    written += static_cast<std::size_t>(part);
  }
  const int reason = errno;
  kept_.erase(0, written);
  if (!kept_.empty())
    throw run_error("{}: can't be written: {}", path_.string(), std::strerror(reason));
}

}  // namespace revode
