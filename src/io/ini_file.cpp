// Reading INI files. Not Boost's reader: that one cuts values at any '#' (a folder's name may hold
// one) and keeps no line numbers for messages.
#include "io/ini_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

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

std::ifstream open(const std::string& file) {
  std::error_code ignored;
  REVODE_REQUIRE(!std::filesystem::is_directory(file, ignored),
                 "--config {}: found a folder, expected an INI file", file);
  std::ifstream stream(file);
  REVODE_REQUIRE(stream.is_open(), "--config {}: cannot be read ({}); expected an INI file", file,
                 std::strerror(errno));
  return stream;
}

}  // namespace

std::vector<IniEntry> read_ini_file(const std::string& file) {
  std::ifstream stream = open(file);
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
  REVODE_REQUIRE(!stream.bad(), "--config {}: cannot be read to its end", file);
  return entries;
}

std::string ini_value(std::string_view value) {
  const bool plain = trimmed(value) == value && without_comment(value) == value &&
                     !value.starts_with('"') && !value.starts_with('#');
  return plain ? std::string(value) : '"' + std::string(value) + '"';
}

}  // namespace revode
