// Files that are complete or absent: written under a temporary name, synced, renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace revode {

/// The number of X below.
inline constexpr std::size_t num_temporary_signs = 6;

/// An empty file beside `file` under a hidden name that nothing had before: ".<name>.XXXXXX.tmp",
/// letters and digits for X. Throws a run error.
std::filesystem::path make_temporary_file(const std::filesystem::path& file);

/// The same, a symbolic link to `target`.
std::filesystem::path make_temporary_link(const std::filesystem::path& target,
                                          const std::filesystem::path& file);

/// A make_temporary_file() that is removed unless it has been given another name.
class TemporaryFile {
 public:
  TemporaryFile() = default;
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  /// Empty where there is none.
  const std::filesystem::path& path() const { return path_; }
  void make_beside(const std::filesystem::path& file) { path_ = make_temporary_file(file); }
  /// It has another name.
  void release() { path_.clear(); }

 private:
  std::filesystem::path path_;
};

/// Returns once the file or folder is on the disk. Throws a run error, which names `shown`: for
/// whom the file is.
void sync_to_disk(const std::filesystem::path& path, const std::filesystem::path& shown);

/// Throws a run error where a file of `bytes` bytes cannot be put at `file`: no such folder, not
/// writable, too little space, or a folder of that name.
void check_can_write(const std::filesystem::path& file, std::uintmax_t bytes);

/// Makes `file`, which is empty or missing, `bytes` bytes long and takes disk space for them, so
/// that later writes cannot find the disk full (where the file system can). Throws a run error
/// where there is no room, which names `shown`.
void reserve_space(const std::filesystem::path& file, std::uintmax_t bytes,
                   const std::filesystem::path& shown);

/// Bytes and where they belong in a file.
struct PlacedBytes {
  const void* data = nullptr;
  std::size_t size = 0;
  std::uint64_t offset = 0;
};
/// Writes the pieces into `file`, which is there and which others may write elsewhere, and returns
/// once they are on the disk. Throws a run error, which names `shown`.
void write_pieces(const std::filesystem::path& file, const std::vector<PlacedBytes>& pieces,
                  const std::filesystem::path& shown);

}  // namespace revode
