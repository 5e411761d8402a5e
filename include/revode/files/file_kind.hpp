// What kind of thing a path names, in words for messages.
#pragma once

#include <filesystem>
#include <string_view>

namespace revode {

inline std::string_view kind_in_words(std::filesystem::file_type type) {
  using enum std::filesystem::file_type;
  switch (type) {
    case regular:
      return "a regular file";
    case directory:
      return "a folder";
    case fifo:
      return "a FIFO";
    case socket:
      return "a socket";
    case block:
    case character:
      return "a device";
    default:
      return "of an unknown kind";
  }
}

}  // namespace revode
