// Reading INI files. Not Boost's reader: that one cuts values at any '#' (a folder's name may hold
// one) and keeps no line numbers for messages.
#include "config/ini_file.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fcntl.h>

#include "revode/core/error.hpp"

namespace revode {
namespace {

constexpr std::string_view blanks = " \t\r";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

bool is_quoted(std::string_view value) {
  return value.size() >= 2 && value.front() == '"' && value.back() == '"';
}

/// What stands before a blank and '#'.
std::string_view without_comment(std::string_view value) {
  for (std::size_t i = 1; i < value.size(); ++i) {
    if (value[i] == '#' && blanks.find(value[i - 1]) != std::string_view::npos) {
      return trimmed(value.substr(0, i));
    }
  }
  return value;
}

std::string_view value_of(std::string_view text) {
  if (!text.empty() && text.front() == '"') {
    if (is_quoted(text)) return text.substr(1, text.size() - 2);
    const std::string_view bare = without_comment(text);
    return is_quoted(bare) ? bare.substr(1, bare.size() - 2) : bare;
  }
  return text.starts_with('#') ? std::string_view{} : without_comment(text);
}

/// A pipe of the shell's, as `--config <(command)` makes it; not an output of this process, from
/// which nothing would ever come.
bool is_pipe_of_shell(const std::string& file) {
  if (file == "/dev/stdin") return true;
  for (const std::string_view prefix : {"/dev/fd/", "/proc/self/fd/"}) {
    if (!file.starts_with(prefix)) continue;
    int descriptor = -1;
    std::from_chars(file.data() + prefix.size(), file.data() + file.size(), descriptor);
    const int flags = ::fcntl(descriptor, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) != O_WRONLY;
  }
  return false;
}

/// The file's text; of a device that never ends no more than shows that it is none.
std::string read_text(const std::string& file) {
  constexpr std::size_t most_bytes = std::size_t{1} << 20;
  std::error_code ignored;
  const std::filesystem::file_type type = std::filesystem::status(file, ignored).type();
  REVODE_REQUIRE(type != std::filesystem::file_type::directory,
                 "--config {}: found a folder, expected an INI file", file);
  REVODE_REQUIRE(type != std::filesystem::file_type::fifo || is_pipe_of_shell(file),
                 "--config {}: found a FIFO, expected an INI file", file);
  std::ifstream stream(file);
  REVODE_REQUIRE(stream.is_open(), "--config {}: cannot be read ({}); expected an INI file", file,
                 std::strerror(errno));
  std::string text(most_bytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  REVODE_REQUIRE(!stream.bad(), "--config {}: cannot be read to its end", file);
  text.resize(static_cast<std::size_t>(stream.gcount()));
  REVODE_REQUIRE(text.size() <= most_bytes,
                 "--config {}: found more than {} bytes, expected an INI file", file, most_bytes);
  return text;
}

}  // namespace

std::vector<IniEntry> read_ini_file(const std::string& file) {
  std::istringstream stream(read_text(file));
  std::vector<IniEntry> entries;
  std::string text;
  for (int line = 1; std::getline(stream, text); ++line) {
    const std::string_view content = trimmed(text);
    if (content.empty() || content.front() == '#' || content.front() == ';') continue;
    REVODE_REQUIRE(content.front() != '[',
                   "{} line {}: found the section {}; options stand without sections", file, line,
                   content);
    const std::size_t equals = content.find('=');
    REVODE_REQUIRE(equals != std::string_view::npos && equals > 0,
                   "{} line {}: found '{}', expected key = value", file, line, content);
    const std::string key(trimmed(content.substr(0, equals)));
    const auto earlier = std::find_if(entries.begin(), entries.end(),
                                      [&](const IniEntry& entry) { return entry.key == key; });
    REVODE_REQUIRE(earlier == entries.end(), "{} line {}: {} is given twice (first in line {})",
                   file, line, key, earlier->line);
    entries.push_back({key, std::string(value_of(trimmed(content.substr(equals + 1)))), line});
  }
  return entries;
}

std::string ini_value(std::string_view value) {
  const bool plain = trimmed(value) == value && without_comment(value) == value &&
                     !value.starts_with('"') && !value.starts_with('#');
  return plain ? std::string(value) : '"' + std::string(value) + '"';
}

}  // namespace revode
