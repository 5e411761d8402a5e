// Files that are complete or absent: written under a temporary name, synced, renamed.
#pragma once

#include <cstdint>
#include <filesystem>

namespace revode {

/// The hidden name beside `file` that it is written under: ".<name>.tmp".
std::filesystem::path temporary_name(const std::filesystem::path& file);

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
