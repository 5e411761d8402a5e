// One HDF5 file written by all ranks together, in the layout of docs/file-format.md. Knows arrays
// and attributes, not networks: who calls says which rows of which array this rank holds.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <mpi.h>
#include <nlohmann/json.hpp>

namespace revode {

/// Rows [first_row, first_row + num_rows) of a float32 array, as this rank holds them: contiguous,
/// row-major. A rank that holds nothing of an array still names it, with num_rows 0, and a rank
/// whose rows come in pieces names it once a piece, one behind the other, as often as every other
/// rank: writing and reading are collective.
struct ArraySlice {
  std::string path;                 ///< e.g. "/model/stage_1/kernel"
  std::vector<std::int64_t> shape;  ///< of the whole array; row = first index
  std::int64_t first_row = 0;
  std::int64_t num_rows = 0;
  float* data = nullptr;  ///< read from when writing, written to when reading
};

/// The scalar attributes of /progress: what a run needs to go on, beside arrays. Numbers become
/// int64 or float64 attributes, strings become strings.
using Attributes = nlohmann::json;

struct CheckpointContents {
  nlohmann::json config;           ///< option names -> values; the root attribute `config`
  Attributes root_attributes;      ///< further scalar attributes of the root group; may be empty
  Attributes progress;             ///< /progress is left out where empty
  std::vector<ArraySlice> arrays;  ///< the same paths and shapes, in the same order, on all ranks
};

/// How long ranks look for a file that another has made: network file systems show changes late.
inline constexpr std::chrono::milliseconds shared_file_patience{10'000};

/// Collective over `communicator`. Writes `file` so that it is complete or absent: under a
/// temporary name that nothing had before (".<name>.XXXXXX.tmp") in the same folder, synced,
/// renamed by rank 0 after all ranks are done. The bytes do not depend on the number of ranks.
/// Throws on every rank (scope all_ranks) when any rank fails, or does not see within `patience`
/// the file that rank 0 has begun; the temporary file is removed.
void write_checkpoint(const std::filesystem::path& file, const CheckpointContents& contents,
                      MPI_Comm communicator,
                      std::chrono::milliseconds patience = shared_file_patience);

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

/// Points `link` (a symbolic link in the folder of `target`) to `target`, atomically. One process
/// calls it.
void publish_link(const std::filesystem::path& target, const std::filesystem::path& link);

/// Removes what a run of ours that was killed while writing left in its own folder: temporary files
/// of checkpoint-<step>.h5 and best.h5, and links for latest.h5, by exactly these names. Only for
/// who alone writes there. Says which they were; a folder that can't be read has none.
std::vector<std::filesystem::path> remove_left_over_temporaries(
    const std::filesystem::path& folder);

/// checkpoint-<step>.h5 files of a folder, oldest first (by step). Empty where the folder does not
/// exist.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder);

/// Version of the HDF5 library in use, "1.10.8".
std::string hdf5_version();

/// The file name of a step's checkpoint.
std::string checkpoint_name(std::int64_t step);
/// The step of such a name; nothing for any other name.
std::optional<std::int64_t> step_of_checkpoint(std::string_view name);

}  // namespace revode
