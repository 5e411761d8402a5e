// A checkpoint that is there: its attributes, its arrays, and whether they are whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <mpi.h>

#include "revode/checkpoint/array_slice.hpp"

namespace revode {

/// An open checkpoint, read by one process (MPI_COMM_NULL: no MPI needed) or by all ranks of a
/// communicator together (every method is collective then). Errors name the file, and the array or
/// attribute, what was found and what was expected.
class CheckpointReader {
 public:
  /// Whether the whole file is held against its checksums before anything of it is believed: once
  /// for each file is enough.
  enum class Checksums { verify, ignore };
  explicit CheckpointReader(const std::filesystem::path& file,
                            MPI_Comm communicator = MPI_COMM_NULL,
                            Checksums checksums = Checksums::verify);
  CheckpointReader(const std::filesystem::path& file, Checksums checksums);  ///< by one process
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;

  const nlohmann::json& config() const;
  /// {} where the file has no /progress (a model alone).
  const Attributes& progress() const;
  struct ArrayInfo {
    std::string path;
    std::vector<std::int64_t> shape;
  };
  /// Every float array of the file, in the order of their paths.
  const std::vector<ArrayInfo>& arrays() const;
  bool has(const std::string& path) const;
  /// False for files from elsewhere, whose damage nobody can see.
  bool has_checksums() const;

  /// Throws an input error where there is no such array, or one of another shape or type.
  void check(const std::string& path, const std::vector<std::int64_t>& shape) const;

  /// Fills slice.data. The array must have exactly slice.shape and a floating-point type.
  void read(const ArraySlice& slice) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The path of the first float array (in the order of arrays()) that holds a value which is not
/// finite: a run that diverged. Reads everything, a few MB at a time. Collective where the reader
/// is.
std::optional<std::string> first_non_finite(const CheckpointReader& reader);

/// Version of the HDF5 library in use, "1.10.8".
std::string hdf5_version();

}  // namespace revode
