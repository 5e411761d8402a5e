// Checksums of a checkpoint file, in the user block in front of its HDF5 part
// (docs/file-format.md): one a byte range, so that every bit of the file is covered and damage has
// a name. Knows where arrays lie in a file, not what they mean.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace revode {

/// Bytes of the user block of a file with these arrays: a power of two of at least 512, as HDF5
/// wants it.
std::uint64_t checksum_block_size(const std::vector<std::string>& array_paths);

/// Fills the user block of a finished file, which must be closed. Throws a run error or
/// Hdf5Failure.
void write_checksums(const std::filesystem::path& file);

/// CRC-32 as zlib's and PNG's.
std::uint32_t checksum_of(std::span<const char> bytes);
/// Of bytes and `second_size` bytes behind them, from the checksums of both.
std::uint32_t joined_checksum(std::uint32_t first, std::uint32_t second, std::uint64_t second_size);

struct ArrayPlace {
  std::string path;
  std::uint64_t offset = 0;  ///< from the first byte of the file
  std::uint64_t bytes = 0;
  std::uint32_t checksum = 0;
};
/// The user block of a file, for who knows all that is in it. front: the file from its first byte
/// on, up to the first array at most; what is neither there nor in an array, up to `file_bytes`, is
/// zero.
std::string checksum_block(std::vector<ArrayPlace> arrays, std::span<const char> front,
                           std::uint64_t file_bytes);

/// What was found to be as it was written.
struct CheckedFile {
  bool has_checksums = false;  ///< else it comes from elsewhere: nothing was checked
  std::size_t num_arrays = 0;
  std::uint64_t bytes = 0;
};

/// Reads the whole file. Throws an input error that names every damaged array, or the part of the
/// file that is no array.
CheckedFile check_checksums(const std::filesystem::path& file);

/// Whether the file has a block of checksums; reads its first bytes only.
bool has_checksums(const std::filesystem::path& file);

}  // namespace revode
