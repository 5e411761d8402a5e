// HDF5 files made with plain calls of the library, as other programs would make them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/hdf5_handles.hpp"

namespace revode {

/// An HDF5 file in the making.
class Hdf5File {
 public:
  explicit Hdf5File(const std::filesystem::path& file) {
    silence_hdf5();
    file_ = {REVODE_HDF5(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)),
             H5Fclose};
  }

  Hdf5File& text(const char* group, const char* name, const std::string& value) {
    const Hdf5Handle type(REVODE_HDF5(H5Tcopy(H5T_C_S1)), H5Tclose);
    REVODE_HDF5(H5Tset_size(type.get(), value.size() + 1));
    return attribute(group, name, type.get(), type.get(), value.c_str());
  }

  /// As h5py writes a str.
  Hdf5File& variable_text(const char* group, const char* name, const std::string& value) {
    const Hdf5Handle type(REVODE_HDF5(H5Tcopy(H5T_C_S1)), H5Tclose);
    REVODE_HDF5(H5Tset_size(type.get(), H5T_VARIABLE));
    REVODE_HDF5(H5Tset_cset(type.get(), H5T_CSET_UTF8));
    const char* pointer = value.c_str();
    return attribute(group, name, type.get(), type.get(), &pointer);
  }

  Hdf5File& number(const char* group, const char* name, hid_t type, double value) {
    return attribute(group, name, type, H5T_NATIVE_DOUBLE, &value);
  }

  Hdf5File& attribute(const char* group, const char* name, hid_t type, hid_t memory_type,
                      const void* value) {
    const Hdf5Handle object(REVODE_HDF5(H5Oopen(file_.get(), group, H5P_DEFAULT)), H5Oclose);
    const Hdf5Handle space(REVODE_HDF5(H5Screate(H5S_SCALAR)), H5Sclose);
    const Hdf5Handle made(
        REVODE_HDF5(H5Acreate2(object.get(), name, type, space.get(), H5P_DEFAULT, H5P_DEFAULT)),
        H5Aclose);
    REVODE_HDF5(H5Awrite(made.get(), memory_type, value));
    return *this;
  }

  Hdf5File& group(const char* name) {
    const Hdf5Handle made(
        REVODE_HDF5(H5Gcreate2(file_.get(), name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)),
        H5Gclose);
    return *this;
  }

  /// Elements 0, 1, 2, ... of the file type given; the last one is `last` where that is given.
  Hdf5File& array(const char* path, const std::vector<hsize_t>& shape, hid_t type,
                  std::optional<double> last = {}) {
    std::vector<double> values;
    hsize_t size = 1;
    for (const hsize_t extent : shape) size *= extent;
    for (hsize_t i = 0; i < size; ++i) values.push_back(static_cast<double>(i));
    if (last) values.back() = *last;
    const Hdf5Handle space(
        REVODE_HDF5(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr)),
        H5Sclose);
    const Hdf5Handle links(REVODE_HDF5(H5Pcreate(H5P_LINK_CREATE)), H5Pclose);
    REVODE_HDF5(H5Pset_create_intermediate_group(links.get(), 1));
    const Hdf5Handle dataset(REVODE_HDF5(H5Dcreate2(file_.get(), path, type, space.get(),
                                                    links.get(), H5P_DEFAULT, H5P_DEFAULT)),
                             H5Dclose);
    REVODE_HDF5(
        H5Dwrite(dataset.get(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()));
    return *this;
  }

  /// An array in pieces of one element, none of which is there: it takes no room.
  Hdf5File& claimed_array(const char* path, const std::vector<hsize_t>& shape,
                          hid_t type = H5T_IEEE_F32LE) {
    const int rank = static_cast<int>(shape.size());
    const Hdf5Handle space(REVODE_HDF5(H5Screate_simple(rank, shape.data(), nullptr)), H5Sclose);
    const Hdf5Handle pieces(REVODE_HDF5(H5Pcreate(H5P_DATASET_CREATE)), H5Pclose);
    const std::vector<hsize_t> ones(shape.size(), 1);
    REVODE_HDF5(H5Pset_chunk(pieces.get(), rank, ones.data()));
    const Hdf5Handle dataset(REVODE_HDF5(H5Dcreate2(file_.get(), path, type, space.get(),
                                                    H5P_DEFAULT, pieces.get(), H5P_DEFAULT)),
                             H5Dclose);
    return *this;
  }

 private:
  Hdf5Handle file_;
};

}  // namespace revode
