#include "checkpoint/checkpoint_layout.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"

#include "checkpoint/checkpoint_format.hpp"
#include "checkpoint/hdf5_handles.hpp"

namespace revode {

namespace fs = std::filesystem;
namespace format = checkpoint_format;

std::int64_t num_elements(const std::vector<std::int64_t>& shape) {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

std::vector<const ArraySlice*> arrays_of(const CheckpointContents& contents) {
  std::vector<const ArraySlice*> arrays;
  for (const ArraySlice& slice : contents.arrays)
    if (arrays.empty() || arrays.back()->path != slice.path) arrays.push_back(&slice);
  return arrays;
}

namespace {

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
std::vector<ArrayPlace> create_tree(hid_t file, const CheckpointContents& contents,
                                    H5D_alloc_time_t when_placed) {
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
  REVODE_HDF5(H5Pset_alloc_time(creation.get(), when_placed));
  REVODE_HDF5(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER));
  std::set<std::string> groups{format::progress_group};
  std::vector<ArrayPlace> places;
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
    places.push_back(
        {.path = array->path,
         .offset = H5Dget_offset(dataset.get()),
         .bytes = sizeof(float) * static_cast<std::uint64_t>(num_elements(array->shape))});
    dataset.close();
  }
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

}  // namespace

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
  layout.places = create_tree(file.get(), contents, H5D_ALLOC_TIME_EARLY);
  if (std::ranges::find(layout.places, HADDR_UNDEF, &ArrayPlace::offset) != layout.places.end())
    throw run_error("HDF5 gave an array no place");
  file.close();
  // The library's blocks end with room that it gives back when it closes the file.
  layout.structure = std::move(memory.bytes);
  while (!layout.structure.empty() && layout.structure.back() == 0) layout.structure.pop_back();
  layout.bytes = layout.structure.size();
  for (const ArrayPlace& place : layout.places)
    layout.bytes = std::max(layout.bytes, place.offset + place.bytes);
  return layout;
}

}  // namespace revode
