// INI files as lines "key = value". Knows nothing of options.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace revode {

struct IniEntry {
  std::string key;
  std::string value;
  int line = 0;  ///< from 1
};

/// Reads "key = value" lines. A line that begins with # or ; is a comment, as is the rest of a line
/// after a blank and #. A value in double quotes is taken as it stands between them. Throws an
/// input error naming the file (and line): missing, a folder, unreadable, a line without '=', a
/// section, a key that is there twice.
std::vector<IniEntry> read_ini_file(const std::string& file);

/// A value as read_ini_file() reads it back, in quotes where it needs them. It must not hold a line
/// break.
std::string ini_value(std::string_view value);

}  // namespace revode
