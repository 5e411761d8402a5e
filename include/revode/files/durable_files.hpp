// Files that are complete or absent: written under a temporary name, synced, renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace revode {

/// The number of X below.
inline constexpr std::size_t num_temporary_signs = 6;

/// An empty file beside `file` under a hidden name that nothing had before: ".<name>.XXXXXX.tmp",
/// letters and digits for X. Throws a run error.
std::filesystem::path make_temporary_file(const std::filesystem::path& file);

/// The same, a symbolic link to `target`.
std::filesystem::path make_temporary_link(const std::filesystem::path& target,
                                          const std::filesystem::path& file);

/// Returns once the file or folder is on the disk. Throws a run error.
void sync_to_disk(const std::filesystem::path& path);

/// Throws a run error where a file of `bytes` bytes cannot be put at `file`: no such folder, not
/// writable, too little space, or a folder of that name.
void check_can_write(const std::filesystem::path& file, std::uintmax_t bytes);

/// Takes disk space for the first `bytes` bytes of `file`, made where it is missing, so that later
/// writes cannot find the disk full (nothing where the file system cannot). Throws a run error
/// where there is no room.
void reserve_space(const std::filesystem::path& file, std::uintmax_t bytes);

}  // namespace revode
