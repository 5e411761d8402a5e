// What a checkpoint holds, in pieces: rows of arrays, and attributes. Knows no networks: who calls
// says which rows of which array this rank holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

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

}  // namespace revode
