// One HDF5 file written by all ranks together, in the layout of docs/file-format.md: at once, or
// behind what they do meanwhile.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

#include <mpi.h>
#include <nlohmann/json.hpp>

#include "revode/checkpoint/array_slice.hpp"

namespace revode {

struct CheckpointContents {
  nlohmann::json config;           ///< option names -> values; the root attribute `config`
  Attributes root_attributes;      ///< further scalar attributes of the root group; may be empty
  Attributes progress;             ///< /progress is left out where empty
  std::vector<ArraySlice> arrays;  ///< the same paths and shapes, in the same order, on all ranks
};

/// How long ranks look for a file that another has made: network file systems show changes late.
inline constexpr std::chrono::milliseconds shared_file_patience{10'000};

/// A checkpoint on its way to the disk. It is complete or absent: under a temporary name that
/// nothing had before (".<name>.XXXXXX.tmp") in the same folder, synced, renamed by rank 0 after
/// all ranks are done. The bytes do not depend on the number of ranks. A thread of each rank writes
/// its rows, one of rank 0 what comes after; they call neither MPI nor HDF5.
class CheckpointWrite {
 public:
  /// Collective over `communicator`, which must outlive this: lays the file out and begins to
  /// write. What contents.arrays point to must stay as it is until is_idle(). Throws on every rank
  /// (scope all_ranks) when any rank fails, or one with rows does not see within `patience` the
  /// file that rank 0 has begun; nothing is left of it then.
  CheckpointWrite(const std::filesystem::path& file, const CheckpointContents& contents,
                  MPI_Comm communicator, std::chrono::milliseconds patience = shared_file_patience);
  /// Waits for this rank's thread. Where the file is not in place, rank 0 removes what there is.
  ~CheckpointWrite();
  CheckpointWrite(const CheckpointWrite&) = delete;
  CheckpointWrite& operator=(const CheckpointWrite&) = delete;

  /// Whether this rank's thread has done what it was last given. Of this rank alone.
  bool is_idle() const;
  /// Collective. Waits for the threads of all ranks, and gives rank 0's what comes next; true once
  /// the file is in place. Throws on every rank (scope all_ranks) where a thread could not do what
  /// it was given.
  bool advance();

  /// When this rank's threads were at work, once is_idle().
  struct Span {
    std::chrono::steady_clock::time_point begin, end;
  };
  const std::vector<Span>& times_at_work() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Collective. The same from beginning to end.
void write_checkpoint(const std::filesystem::path& file, const CheckpointContents& contents,
                      MPI_Comm communicator,
                      std::chrono::milliseconds patience = shared_file_patience);

}  // namespace revode
