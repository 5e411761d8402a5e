// Writes a checkpoint from all ranks, in steps. Rank 0 lays the file out in memory: groups,
// attributes, arrays without numbers, whose places are known then. A thread of each rank writes its
// rows there. Then one of rank 0 adds the checksums, which it has from all ranks, and gives the
// file its name. So the bytes are the same for any number of ranks. Nobody writes through HDF5 or
// MPI-IO: where a call of the system fails inside those on one rank, they leave the others waiting,
// do not say why, or crash later.
#include "revode/checkpoint/checkpoint_writer.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <future>
#include <span>
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

/// What must be the same on all ranks, as a number, and this rank's rows.
struct Outline {
  std::uint64_t tree = 0;
  std::vector<std::int64_t> rows;  ///< the first and the number of each piece
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

/// Collective: the pieces of every array, in the order of arrays_of() and of their rows. All ranks
/// write the same tree, and every row of every array is written once.
std::vector<std::vector<RowPiece>> agree_on_pieces(const CheckpointContents& contents,
                                                   const Outline& outline, MPI_Comm communicator) {
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
  const int num_slices = static_cast<int>(contents.arrays.size());
  std::vector<std::vector<RowPiece>> arrays;
  for (int begin = 0, end = 0; begin < num_slices; begin = end) {
    std::vector<RowPiece> pieces;
    for (end = begin; end < num_slices && contents.arrays[end].path == contents.arrays[begin].path;
         ++end) {
      for (int rank = 0; rank < num_ranks; ++rank) {
        const std::int64_t* of_rank = all_rows.data() + rank * rows.size() + 2 * end;
        if (of_rank[1] > 0) pieces.push_back({of_rank[0], of_rank[1], rank, end});
      }
    }
    std::ranges::sort(pieces, {}, &RowPiece::first_row);
    std::int64_t next_row = 0;
    for (const RowPiece& piece : pieces)
      next_row = piece.first_row == next_row ? next_row + piece.num_rows : -1;
    if (next_row != contents.arrays[begin].shape[0])
      throw run_error("the rows of array '{}' are not each on exactly one rank",
                      contents.arrays[begin].path);
    arrays.push_back(std::move(pieces));
  }
  return arrays;
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

/// Where this rank's rows belong in the file, by slice of contents.arrays. offsets: of the arrays,
/// in the order of arrays_of().
std::vector<PlacedBytes> place_rows(const CheckpointContents& contents,
                                    std::span<const std::uint64_t> offsets) {
  static_assert(std::endian::native == std::endian::little, "arrays are little-endian in the file");
  std::vector<PlacedBytes> rows;
  std::size_t array = 0;
  for (std::size_t i = 0; i < contents.arrays.size(); ++i) {
    const ArraySlice& slice = contents.arrays[i];
    if (i > 0 && contents.arrays[i - 1].path != slice.path) ++array;
    const auto row_bytes =
        static_cast<std::uint64_t>(sizeof(float) * num_elements(slice.shape) / slice.shape[0]);
    rows.push_back(
        {slice.data, slice.num_rows * row_bytes, offsets[array] + slice.first_row * row_bytes});
  }
  return rows;
}

}  // namespace

struct CheckpointWrite::Impl {
  Impl(const fs::path& file_in, const CheckpointContents& contents, MPI_Comm communicator_in,
       std::chrono::milliseconds patience);
  bool advance();

  void make_room(const CheckpointContents& contents);
  void share_layout(const CheckpointContents& contents, std::chrono::milliseconds patience);
  bool has_rows() const {
    return std::ranges::any_of(rows, [](const PlacedBytes& piece) { return piece.size > 0; });
  }
  void begin(std::function<void()> task);
  void write_rows();
  void gather_checksums();
  void put_in_place();

  const fs::path file;
  const std::string context = fmt::format("cannot write '{}'", file.string());
  const MPI_Comm communicator;
  int rank = 0, num_ranks = 1;

  std::vector<std::vector<RowPiece>> pieces;  // of all ranks, by array
  Layout layout;                              // on rank 0
  TemporaryFile temporary;                    // on rank 0
  fs::path shared;                            // the same on every rank
  std::vector<PlacedBytes> rows;              // of this rank, by slice of its contents.arrays
  std::vector<std::uint32_t> checksums;       // the same

  enum class Stage { rows, name, done } stage = Stage::rows;
  std::vector<Span> times;
  std::future<void> work;  // of the thread, which uses all of the above
};

// 1. What can be known before is checked before.  2. The structure in memory, and room for all of
// it on the disk.  3. All know what to write where.
CheckpointWrite::Impl::Impl(const fs::path& file_in, const CheckpointContents& contents,
                            MPI_Comm communicator_in, std::chrono::milliseconds patience)
    : file(file_in), communicator(communicator_in) {
  check_mpi(MPI_Comm_rank(communicator, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(communicator, &num_ranks), "MPI_Comm_size");
  Outline outline;
  on_all_ranks(communicator, context, [&] {
    silence_hdf5();
    check_contents(contents);
    outline = outline_of(contents);
  });
  on_all_ranks(communicator, context,
               [&] { pieces = agree_on_pieces(contents, outline, communicator); });
  on_first_rank(communicator, context, [&] { make_room(contents); });
  share_layout(contents, patience);
  checksums.resize(rows.size());
  on_all_ranks(communicator, context, [&] {
    if (rank == 0 || has_rows()) begin([this] { write_rows(); });
  });
}

void CheckpointWrite::Impl::make_room(const CheckpointContents& contents) {
  check_can_write(file, 0);
  temporary.make_beside(file);
  layout = lay_out(contents);
  check_can_write(file, layout.bytes);
  reserve_space(temporary.path(), layout.bytes, file);
}

void CheckpointWrite::Impl::share_layout(const CheckpointContents& contents,
                                         std::chrono::milliseconds patience) {
  std::string name = temporary.path().filename().string();
  std::vector<std::uint64_t> numbers{layout.bytes, name.size()};
  for (const ArrayPlace& place : layout.places) numbers.push_back(place.offset);
  numbers.resize(2 + pieces.size());
  {
    const ActivityScope at(together);
    check_mpi(
        MPI_Bcast(numbers.data(), static_cast<int>(numbers.size()), MPI_UINT64_T, 0, communicator),
        "MPI_Bcast");
    name.resize(numbers[1]);
    check_mpi(MPI_Bcast(name.data(), static_cast<int>(name.size()), MPI_CHAR, 0, communicator),
              "MPI_Bcast");
  }
  shared = file.parent_path() / name;
  rows = place_rows(contents, std::span(numbers).subspan(2));
  on_all_ranks(communicator, "cannot look for the file of rank 0", [&] {
    if (has_rows()) look_for(shared, numbers[0], file, patience);
  });
}

void CheckpointWrite::Impl::begin(std::function<void()> task) {
  work = std::async(std::launch::async, [this, task = std::move(task)] {
    const auto start = std::chrono::steady_clock::now();
    task();
    times.push_back({start, std::chrono::steady_clock::now()});
  });
}

void CheckpointWrite::Impl::write_rows() {
  std::ranges::transform(rows, checksums.begin(), [](const PlacedBytes& piece) {
    return checksum_of({static_cast<const char*>(piece.data), piece.size});
  });
  std::vector<PlacedBytes> mine = rows;
  mine.push_back({layout.structure.data(), layout.structure.size(), 0});
  std::erase_if(mine, [](const PlacedBytes& piece) { return piece.size == 0; });
  write_pieces(shared, mine, file);
}

bool CheckpointWrite::Impl::advance() {
  if (stage == Stage::done) return true;
  {
    const ActivityScope at({.what = "waits for its thread that writes a checkpoint"});
    if (work.valid()) work.wait();
  }
  on_all_ranks(communicator, context, [&] {
    if (work.valid()) work.get();
  });
  if (stage == Stage::name) {
    temporary.release();
    stage = Stage::done;
    return true;
  }
  gather_checksums();
  on_first_rank(communicator, context, [&] { begin([this] { put_in_place(); }); });
  stage = Stage::name;
  return false;
}

void CheckpointWrite::Impl::gather_checksums() {
  const ActivityScope at(together);
  const int num_slices = static_cast<int>(rows.size());
  std::vector<std::uint32_t> all(rank == 0 ? num_slices * num_ranks : 0);
  check_mpi(MPI_Gather(checksums.data(), num_slices, MPI_UINT32_T, all.data(), num_slices,
                       MPI_UINT32_T, 0, communicator),
            "MPI_Gather");
  for (std::size_t array = 0; array < layout.places.size(); ++array) {
    ArrayPlace& place = layout.places[array];
    const RowPiece& last = pieces[array].back();
    const std::uint64_t row_bytes = place.bytes / (last.first_row + last.num_rows);
    for (const RowPiece& piece : pieces[array])
      place.checksum = joined_checksum(place.checksum, all[piece.rank * num_slices + piece.slice],
                                       piece.num_rows * row_bytes);
  }
}

// By rank 0's thread.
void CheckpointWrite::Impl::put_in_place() {
  const std::string block = checksum_block(layout.places, layout.structure, layout.bytes);
  write_pieces(temporary.path(), {{block.data(), block.size(), 0}}, file);
  std::error_code failure;
  fs::rename(temporary.path(), file, failure);
  if (failure) throw run_error("{}: {}", context, failure.message());
  sync_to_disk(file.has_parent_path() ? file.parent_path() : fs::path("."), file);
}

CheckpointWrite::CheckpointWrite(const fs::path& file, const CheckpointContents& contents,
                                 MPI_Comm communicator, std::chrono::milliseconds patience) {
  const ActivityScope at({.what = "writes a checkpoint"});
  impl_ = std::make_unique<Impl>(file, contents, communicator, patience);
}

CheckpointWrite::~CheckpointWrite() = default;

bool CheckpointWrite::is_idle() const {
  return !impl_->work.valid() ||
         impl_->work.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

bool CheckpointWrite::advance() {
  const ActivityScope at({.what = "writes a checkpoint"});
  return impl_->advance();
}

const std::vector<CheckpointWrite::Span>& CheckpointWrite::times_at_work() const {
  return impl_->times;
}

void write_checkpoint(const fs::path& file, const CheckpointContents& contents,
                      MPI_Comm communicator, std::chrono::milliseconds patience) {
  CheckpointWrite write(file, contents, communicator, patience);
  while (!write.advance()) {
  }
}

}  // namespace revode
