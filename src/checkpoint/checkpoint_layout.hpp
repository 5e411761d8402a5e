// Where everything is in a checkpoint's file: its structure, made by HDF5 in memory, and the places
// of its arrays.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "revode/checkpoint/checkpoint_writer.hpp"

#include "checkpoint/checksums.hpp"

namespace revode {

/// Product of the extents.
std::int64_t num_elements(const std::vector<std::int64_t>& shape);

/// The arrays, each once: a path that comes several times in a row is one array in pieces.
std::vector<const ArraySlice*> arrays_of(const CheckpointContents& contents);

/// Rows of an array that one rank writes in one piece.
struct RowPiece {
  std::int64_t first_row, num_rows;
  int rank, slice;  ///< slice: which of the rank's contents.arrays
};

/// A file without the numbers in its arrays.
struct Layout {
  std::vector<char> structure;     ///< what is in front of the arrays
  std::vector<ArrayPlace> places;  ///< in the order of arrays_of(), without checksums
  std::uint64_t bytes = 0;         ///< of the whole file
};

/// Made in memory, without the arrays: HDF5 meets no disk, since after a close that failed it
/// crashes at the end of the process (1.10.8).
Layout lay_out(const CheckpointContents& contents);

}  // namespace revode
