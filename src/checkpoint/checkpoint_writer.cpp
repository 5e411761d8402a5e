// Writes a checkpoint from all ranks, in two steps. Rank 0 alone lays the file out: groups,
// attributes, arrays without numbers, whose places are known then. Then each rank writes its rows
// there, and rank 0 adds the checksums of what the file holds. So the bytes are the same for any
// number of ranks. The ranks do so without HDF5 and MPI-IO: where a call of the system fails inside
// those on one rank, they leave the others waiting, do not say why, or crash later.
#include "revode/checkpoint/checkpoint_writer.hpp"

#include <algorithm>
#include <bit>
#include <thread>
#include <utility>

#include "revode/comm/agreement.hpp"
#include "revode/core/activity.hpp"
#include "revode/core/error.hpp"
#include "revode/files/durable_files.hpp"
#include "revode/files/host.hpp"
#include "revode/files/json_text.hpp"

#include "checkpoint/checkpoint_layout.hpp"
#include "checkpoint/checksums.hpp"
#include "checkpoint/hdf5_handles.hpp"

namespace revode {

namespace fs = std::filesystem;

namespace {

/// In a call that all ranks make.
constexpr Activity together{.what = "writes a checkpoint with the others",
                            .waits_for = Activity::everybody};

/// 64-bit FNV-1a.
std::uint64_t hash_text(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char character : text) {
    hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001b3;
  }
  return hash;
}

/// Attributes must be finite numbers or strings, arrays must have rows, and this rank's rows must
/// lie in them.
void check_contents(const CheckpointContents& contents) {
  for (const Attributes* attributes : {&contents.root_attributes, &contents.progress}) {
    for (const auto& [name, value] : attributes->items()) {
      if (value.is_number() || value.is_string()) continue;
      throw run_error("attribute '{}' is {}, expected a finite number or a string", name,
                      to_text(value));
    }
  }
  for (const ArraySlice& slice : contents.arrays) {
    const bool has_shape = !slice.shape.empty() && num_elements(slice.shape) > 0;
    const bool fits = has_shape && slice.first_row >= 0 && slice.num_rows >= 0 &&
                      slice.first_row + slice.num_rows <= slice.shape[0];
    if (!fits || (slice.num_rows > 0 && slice.data == nullptr)) {
      throw run_error("array '{}' is to be written from rows that it does not have", slice.path);
    }
  }
}

/// What must be the same on all ranks, as a number, and this rank's rows: the first and the number
/// of each piece.
struct Outline {
  std::uint64_t tree = 0;
  std::vector<std::int64_t> rows;
};

Outline outline_of(const CheckpointContents& contents) {
  std::string tree =
      to_text(contents.config) + to_text(contents.root_attributes) + to_text(contents.progress);
  Outline outline;
  for (const ArraySlice& slice : contents.arrays) {
    tree += slice.path + to_text(nlohmann::json(slice.shape));
    outline.rows.insert(outline.rows.end(), {slice.first_row, slice.num_rows});
  }
  outline.tree = hash_text(tree);
  return outline;
}

/// Collective: all ranks write the same tree, and every row of every array is written once.
void check_agreement(const CheckpointContents& contents, const Outline& outline,
                     MPI_Comm communicator) {
  const ActivityScope at(together);
  const std::vector<std::int64_t>& rows = outline.rows;
  std::uint64_t hash[2] = {outline.tree, ~outline.tree};
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, hash, 2, MPI_UINT64_T, MPI_MAX, communicator),
            "MPI_Allreduce");
  // Largest and smallest hash are equal. All ranks see the same two values.
  if (hash[0] != ~hash[1]) throw run_error("ranks disagree on what the checkpoint holds");

  int num_ranks = 1;
  check_mpi(MPI_Comm_size(communicator, &num_ranks), "MPI_Comm_size");
  std::vector<std::int64_t> all_rows(rows.size() * num_ranks);
  const int count = static_cast<int>(rows.size());
  check_mpi(MPI_Allgather(rows.data(), count, MPI_INT64_T, all_rows.data(), count, MPI_INT64_T,
                          communicator),
            "MPI_Allgather");
  std::size_t end = 0;
  for (std::size_t array = 0; array < contents.arrays.size(); array = end) {
    std::vector<std::pair<std::int64_t, std::int64_t>> pieces;  // first row, number of rows
    for (end = array;
         end < contents.arrays.size() && contents.arrays[end].path == contents.arrays[array].path;
         ++end) {
      for (int rank = 0; rank < num_ranks; ++rank) {
        const std::int64_t* piece = all_rows.data() + rank * rows.size() + 2 * end;
        if (piece[1] > 0) pieces.emplace_back(piece[0], piece[1]);
      }
    }
    std::sort(pieces.begin(), pieces.end());
    std::int64_t next_row = 0;
    for (const auto& [first, number] : pieces) next_row = first == next_row ? first + number : -1;
    if (next_row == contents.arrays[array].shape[0]) continue;
    throw run_error("the rows of array '{}' are not each on exactly one rank",
                    contents.arrays[array].path);
  }
}

/// Rank 0 alone. Afterwards the file has its final size, on the disk as well.
void write_layout(const fs::path& file, const fs::path& shown, const Layout& layout) {
  check_can_write(shown, layout.bytes);
  reserve_space(file, layout.bytes, shown);
  write_pieces(file, {{layout.structure.data(), layout.structure.size(), 0}}, shown);
}

/// Waits until this rank sees what rank 0 has begun for `file`, with `bytes` bytes.
void look_for(const fs::path& temporary, std::uintmax_t bytes, const fs::path& file,
              std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  constexpr std::chrono::milliseconds pause{20};
  std::error_code error;
  while (fs::file_size(temporary, error) != bytes) {
    if (std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(pause);
      continue;
    }
    throw run_error(
        "cannot write '{}': not all ranks see the same folder: the working folder ({}) does not "
        "show the file that rank 0 has begun there; give --output on a file system that all nodes "
        "share",
        file.string(), place_of_process());
  }
}

/// Collective: the name of rank 0's temporary file beside `file`, once every rank sees it.
fs::path share_temporary(const fs::path& file, const fs::path& temporary, MPI_Comm communicator,
                         std::chrono::milliseconds patience) {
  const ActivityScope at(together);
  std::string name = temporary.filename().string();
  std::uint64_t numbers[2] = {0, name.size()};
  std::error_code ignored;
  if (!temporary.empty()) numbers[0] = fs::file_size(temporary, ignored);
  check_mpi(MPI_Bcast(numbers, 2, MPI_UINT64_T, 0, communicator), "MPI_Bcast");
  name.resize(numbers[1]);
  check_mpi(MPI_Bcast(name.data(), static_cast<int>(name.size()), MPI_CHAR, 0, communicator),
            "MPI_Bcast");
  const fs::path shared = file.parent_path() / name;
  on_all_ranks(communicator, "cannot look for the file of rank 0",
               [&] { look_for(shared, numbers[0], file, patience); });
  return shared;
}

/// Where this rank's rows belong in the file; offsets: of the arrays, in the order of arrays_of().
std::vector<PlacedBytes> place_rows(const CheckpointContents& contents,
                                    const std::vector<std::uint64_t>& offsets) {
  static_assert(std::endian::native == std::endian::little, "arrays are little-endian in the file");
  std::vector<PlacedBytes> pieces;
  std::size_t array = 0;
  for (std::size_t i = 0; i < contents.arrays.size(); ++i) {
    const ArraySlice& slice = contents.arrays[i];
    if (i > 0 && contents.arrays[i - 1].path != slice.path) ++array;
    const auto row_bytes =
        static_cast<std::uint64_t>(sizeof(float) * num_elements(slice.shape) / slice.shape[0]);
    if (slice.num_rows > 0)
      pieces.push_back(
          {slice.data, slice.num_rows * row_bytes, offsets[array] + slice.first_row * row_bytes});
  }
  return pieces;
}

/// Rank 0 alone, once all ranks are done with the file.
void put_in_place(const fs::path& temporary, const fs::path& file, const std::string& context,
                  const std::vector<ArrayPlace>& places) {
  try {
    write_checksums(temporary, places);
  } catch (const Error& error) {  // Of the hidden name; what can't be read back is no bad input.
    throw run_error("{}: {}", context, error.what());
  }
  sync_to_disk(temporary, file);
  std::error_code failure;
  fs::rename(temporary, file, failure);
  if (failure) throw run_error("{}: {}", context, failure.message());
  sync_to_disk(file.has_parent_path() ? file.parent_path() : fs::path("."), file);
}

}  // namespace

void write_checkpoint(const fs::path& file, const CheckpointContents& contents,
                      MPI_Comm communicator, std::chrono::milliseconds patience) {
  const ActivityScope at({.what = "writes a checkpoint"});
  const std::string context = fmt::format("cannot write '{}'", file.string());

  // 1. What can be known before is checked before.
  Outline outline;
  on_all_ranks(communicator, context, [&] {
    silence_hdf5();
    check_contents(contents);
    outline = outline_of(contents);
  });
  on_all_ranks(communicator, context, [&] { check_agreement(contents, outline, communicator); });
  on_first_rank(communicator, context, [&] { check_can_write(file, 0); });

  // 2. Laid out, filled together; given its checksums, synced, renamed by one rank.
  fs::path temporary;  // on rank 0 from when it exists
  std::vector<std::uint64_t> offsets(arrays_of(contents).size());
  try {
    on_first_rank(communicator, context, [&] {
      temporary = make_temporary_file(file);
      const Layout layout = lay_out(contents);
      offsets = layout.offsets;
      write_layout(temporary, file, layout);
    });
    const fs::path shared = share_temporary(file, temporary, communicator, patience);
    check_mpi(
        MPI_Bcast(offsets.data(), static_cast<int>(offsets.size()), MPI_UINT64_T, 0, communicator),
        "MPI_Bcast");
    on_all_ranks(communicator, context, [&] {
      const std::vector<PlacedBytes> mine = place_rows(contents, offsets);
      if (!mine.empty()) write_pieces(shared, mine, file);
    });
    on_first_rank(communicator, context,
                  [&] { put_in_place(temporary, file, context, places_of(contents, offsets)); });
  } catch (const Error&) {
    // All ranks are here: what they throw, they have agreed on.
    std::error_code ignored;
    if (!temporary.empty()) fs::remove(temporary, ignored);
    throw;
  }
}

}  // namespace revode
