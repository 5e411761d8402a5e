// Writes a checkpoint from all ranks, in two steps. Rank 0 alone lays the file out: groups,
// attributes, arrays without numbers, whose places are known then. Then each rank writes its rows
// there, and rank 0 adds the checksums of what the file holds. So the bytes are the same for any
// number of ranks. The ranks do so without HDF5 and MPI-IO: where a call of the system fails inside
// those on one rank, they leave the others waiting, do not say why, or crash later.
#include "revode/checkpoint/checkpoint_writer.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <set>
#include <thread>
#include <utility>

#include "revode/comm/agreement.hpp"
#include "revode/core/activity.hpp"
#include "revode/core/error.hpp"
#include "revode/files/durable_files.hpp"
#include "revode/files/host.hpp"
#include "revode/files/json_text.hpp"

#include "checkpoint/checkpoint_format.hpp"
#include "checkpoint/checksums.hpp"
#include "checkpoint/hdf5_handles.hpp"

namespace revode {

namespace fs = std::filesystem;
namespace format = checkpoint_format;

namespace {

/// In a call that all ranks make.
constexpr Activity together{.what = "writes a checkpoint with the others",
                            .waits_for = Activity::everybody};

std::int64_t num_elements(const std::vector<std::int64_t>& shape) {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

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

/// The arrays, each once: a path that comes several times in a row is one array in pieces.
std::vector<const ArraySlice*> arrays_of(const CheckpointContents& contents) {
  std::vector<const ArraySlice*> arrays;
  for (const ArraySlice& slice : contents.arrays)
    if (arrays.empty() || arrays.back()->path != slice.path) arrays.push_back(&slice);
  return arrays;
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

Hdf5Handle without_times(hid_t property_class) {
  Hdf5Handle properties(REVODE_HDF5(H5Pcreate(property_class)), H5Pclose);
  REVODE_HDF5(H5Pset_obj_track_times(properties.get(), false));
  return properties;
}

hsize_t block_bytes(const CheckpointContents& contents) {
  std::vector<std::string> paths;
  for (const ArraySlice* array : arrays_of(contents)) paths.push_back(array->path);
  return checksum_block_size(paths);
}

Hdf5Handle create_alone(const fs::path& file, const CheckpointContents& contents,
                        const Hdf5Handle& access) {
  const Hdf5Handle creation = without_times(H5P_FILE_CREATE);
  REVODE_HDF5(H5Pset_userblock(creation.get(), block_bytes(contents)));
  return {REVODE_HDF5(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, creation.get(), access.get())),
          H5Fclose};
}

void write_attribute(hid_t object, const std::string& name, hid_t file_type, hid_t memory_type,
                     const void* value) {
  const Hdf5Handle space(REVODE_HDF5(H5Screate(H5S_SCALAR)), H5Sclose);
  const Hdf5Handle attribute(REVODE_HDF5(H5Acreate2(object, name.c_str(), file_type, space.get(),
                                                    H5P_DEFAULT, H5P_DEFAULT)),
                             H5Aclose);
  REVODE_HDF5(H5Awrite(attribute.get(), memory_type, value));
}

/// Fixed length, UTF-8, zero-padded; a type of length 0 does not exist, so "" is one zero byte.
void write_text(hid_t object, const std::string& name, const std::string& text) {
  const Hdf5Handle type(REVODE_HDF5(H5Tcopy(H5T_C_S1)), H5Tclose);
  REVODE_HDF5(H5Tset_size(type.get(), std::max<std::size_t>(1, text.size())));
  REVODE_HDF5(H5Tset_strpad(type.get(), H5T_STR_NULLPAD));
  REVODE_HDF5(H5Tset_cset(type.get(), H5T_CSET_UTF8));
  write_attribute(object, name, type.get(), type.get(), text.c_str());
}

/// Whole numbers as int64 (uint64 where larger, such as a seed may be), others as float64.
void write_value(hid_t object, const std::string& name, const nlohmann::json& value) {
  if (value.is_string()) {
    write_text(object, name, value.get<std::string>());
  } else if (value.is_number_float()) {
    const double number = value.get<double>();
    write_attribute(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &number);
  } else if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) {
    const std::uint64_t number = value.get<std::uint64_t>();
    write_attribute(object, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, &number);
  } else {
    const std::int64_t number = value.get<std::int64_t>();
    write_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &number);
  }
}

Hdf5Handle create_group(hid_t file, const std::string& path) {
  const Hdf5Handle creation = without_times(H5P_GROUP_CREATE);
  return {REVODE_HDF5(H5Gcreate2(file, path.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT)),
          H5Gclose};
}

/// Creates the groups above `path` that are not in `groups` yet, and adds them there.
void create_parents(hid_t file, const std::string& path, std::set<std::string>& groups) {
  for (std::size_t end = path.find('/', 1); end != std::string::npos;
       end = path.find('/', end + 1)) {
    const std::string parent = path.substr(0, end);
    if (groups.insert(parent).second) create_group(file, parent);
  }
}

/// Everything but the numbers in the arrays, which get their place in the file now (early) or when
/// they are written (late). Returns the places of the arrays, in the order of arrays_of().
std::vector<std::uint64_t> create_tree(hid_t file, const CheckpointContents& contents,
                                       H5D_alloc_time_t places) {
  write_text(file, format::format_attribute, format::format_name);
  write_value(file, format::version_attribute, format::version);
  write_text(file, format::config_attribute, to_text(contents.config));
  for (const auto& [name, value] : contents.root_attributes.items()) write_value(file, name, value);
  if (!contents.progress.empty()) {
    const Hdf5Handle group = create_group(file, format::progress_group);
    for (const auto& [name, value] : contents.progress.items()) {
      write_value(group.get(), name, value);
    }
  }

  const Hdf5Handle creation = without_times(H5P_DATASET_CREATE);
  // No zeros: all ranks write every element once.
  REVODE_HDF5(H5Pset_layout(creation.get(), H5D_CONTIGUOUS));
  REVODE_HDF5(H5Pset_alloc_time(creation.get(), places));
  REVODE_HDF5(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER));
  std::set<std::string> groups{format::progress_group};
  std::vector<std::uint64_t> offsets;
  for (const ArraySlice* array : arrays_of(contents)) {
    create_parents(file, array->path, groups);
    const std::vector<hsize_t> extents(array->shape.begin(), array->shape.end());
    const Hdf5Handle space(
        REVODE_HDF5(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr)),
        H5Sclose);
    Hdf5Handle dataset(
        REVODE_HDF5(H5Dcreate2(file, array->path.c_str(), H5T_IEEE_F32LE, space.get(), H5P_DEFAULT,
                               creation.get(), H5P_DEFAULT)),
        H5Dclose);
    offsets.push_back(H5Dget_offset(dataset.get()));
    dataset.close();
  }
  return offsets;
}

std::vector<ArrayPlace> places_of(const CheckpointContents& contents,
                                  const std::vector<std::uint64_t>& offsets) {
  std::vector<ArrayPlace> places;
  for (const ArraySlice* array : arrays_of(contents))
    places.push_back({array->path, offsets[places.size()],
                      sizeof(float) * static_cast<std::uint64_t>(num_elements(array->shape))});
  return places;
}

constexpr std::size_t growth_bytes = 4096;

/// Bytes of all but the block of checksums and the arrays.
hsize_t structure_bytes(const CheckpointContents& contents) {
  const Hdf5Handle access(REVODE_HDF5(H5Pcreate(H5P_FILE_ACCESS)), H5Pclose);
  REVODE_HDF5(H5Pset_fapl_core(access.get(), growth_bytes, /*backing_store=*/false));
  Hdf5Handle file = create_alone("revode-in-memory", contents, access);
  create_tree(file.get(), contents, H5D_ALLOC_TIME_LATE);
  REVODE_HDF5(H5Fflush(file.get(), H5F_SCOPE_GLOBAL));
  hsize_t bytes = 0;
  REVODE_HDF5(H5Fget_filesize(file.get(), &bytes));
  return bytes - block_bytes(contents);
}

/// The memory of a file that HDF5 has there, of which a copy is kept when it is closed.
struct MemoryFile {
  std::size_t size = 0;
  std::vector<char> bytes;
};

void* take_memory(std::size_t size, H5FD_file_image_op_t, void* file) noexcept {
  static_cast<MemoryFile*>(file)->size = size;
  return std::malloc(size);
}
void* copy_memory(void* to, const void* from, std::size_t size, H5FD_file_image_op_t,
                  void*) noexcept {
  return std::memcpy(to, from, size);
}
void* resize_memory(void* memory, std::size_t size, H5FD_file_image_op_t, void* file) noexcept {
  static_cast<MemoryFile*>(file)->size = size;
  return std::realloc(memory, size);
}
herr_t give_memory_back(void* memory, H5FD_file_image_op_t operation, void* file) noexcept {
  herr_t status = 0;
  auto& kept = *static_cast<MemoryFile*>(file);
  if (operation == H5FD_FILE_IMAGE_OP_FILE_CLOSE) {
    try {
      const auto* first = static_cast<const char*>(memory);
      kept.bytes.assign(first, first + kept.size);
    } catch (...) {
      status = -1;
    }
  }
  std::free(memory);
  return status;
}
void* same_file(void* file) noexcept { return file; }
herr_t keep_file(void*) noexcept { return 0; }

/// A file without the numbers in its arrays.
struct Layout {
  std::vector<char> structure;         ///< what is in front of the arrays
  std::vector<std::uint64_t> offsets;  ///< of the arrays, in the order of arrays_of()
  std::uint64_t bytes = 0;             ///< of the whole file
};

/// Made in memory, without the arrays: HDF5 meets no disk, since after a close that failed it
/// crashes at the end of the process (1.10.8).
Layout lay_out(const CheckpointContents& contents) {
  Layout layout;
  MemoryFile memory;
  const Hdf5Handle access(REVODE_HDF5(H5Pcreate(H5P_FILE_ACCESS)), H5Pclose);
  REVODE_HDF5(H5Pset_fapl_core(access.get(), growth_bytes, /*backing_store=*/false));
  // All of it lies in one block, in front of the arrays.
  REVODE_HDF5(H5Pset_meta_block_size(access.get(), structure_bytes(contents)));
  H5FD_file_image_callbacks_t callbacks{take_memory, copy_memory, resize_memory, give_memory_back,
                                        same_file,   keep_file,   &memory};
  REVODE_HDF5(H5Pset_file_image_callbacks(access.get(), &callbacks));
  Hdf5Handle file = create_alone("revode-in-memory", contents, access);
  layout.offsets = create_tree(file.get(), contents, H5D_ALLOC_TIME_EARLY);
  if (std::ranges::find(layout.offsets, HADDR_UNDEF) != layout.offsets.end())
    throw run_error("HDF5 gave an array no place");
  file.close();
  // The library's blocks end with room that it gives back when it closes the file.
  layout.structure = std::move(memory.bytes);
  while (!layout.structure.empty() && layout.structure.back() == 0) layout.structure.pop_back();
  layout.bytes = layout.structure.size();
  for (const ArrayPlace& place : places_of(contents, layout.offsets))
    layout.bytes = std::max(layout.bytes, place.offset + place.bytes);
  return layout;
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
