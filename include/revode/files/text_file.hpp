// Small text files.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace revode {

/// The first line without its end; empty where there is none to read. Reads nothing but regular
/// files and those of /proc.
std::string first_line(const std::filesystem::path& file);

/// Puts `text` at `file` so that it is complete or absent: under a temporary name of its own,
/// synced, renamed. The temporary file goes where that fails. Throws a run error that begins with
/// `what`.
void write_text_file(const std::filesystem::path& file, std::string_view text,
                     std::string_view what);

}  // namespace revode
