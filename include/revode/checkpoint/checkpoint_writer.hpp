// One HDF5 file written by all ranks together, in the layout of docs/file-format.md.
#pragma once

#include <chrono>
#include <filesystem>
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

/// Collective over `communicator`. Writes `file` so that it is complete or absent: under a
/// temporary name that nothing had before (".<name>.XXXXXX.tmp") in the same folder, synced,
/// renamed by rank 0 after all ranks are done. The bytes do not depend on the number of ranks.
/// Throws on every rank (scope all_ranks) when any rank fails, or does not see within `patience`
/// the file that rank 0 has begun; the temporary file is removed.
void write_checkpoint(const std::filesystem::path& file, const CheckpointContents& contents,
                      MPI_Comm communicator,
                      std::chrono::milliseconds patience = shared_file_patience);

}  // namespace revode
