// Checksums of a checkpoint file, in the user block in front of its HDF5 part
// (docs/file-format.md): one a byte range, so that every bit of the file is covered and damage has
// a name. Knows where arrays lie in a file, not what they mean.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace revode {

/// Bytes of the user block of a file with these arrays: a power of two of at least 512, as HDF5
/// wants it.
std::uint64_t checksum_block_size(const std::vector<std::string>& array_paths);

/// Fills the user block of a finished file, which must be closed. Throws a run error or
/// Hdf5Failure.
void write_checksums(const std::filesystem::path& file);

/// The same without HDF5, for who knows where all arrays of the file are. Throws a run error or an
/// input error.
struct ArrayPlace {
  std::string path;
  std::uint64_t offset = 0;  ///< from the first byte of the file
  std::uint64_t bytes = 0;
};
void write_checksums(const std::filesystem::path& file, const std::vector<ArrayPlace>& arrays);

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
