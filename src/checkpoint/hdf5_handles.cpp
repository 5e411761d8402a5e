#include "checkpoint/hdf5_handles.hpp"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "revode/checkpoint/checkpoint_reader.hpp"

namespace revode {

namespace {

/// Called once a level of the stack, innermost first; may not throw through the library.
herr_t append_reason(unsigned level, const H5E_error2_t* error, void* text) noexcept {
  // The inner levels say what went wrong, the outer ones who had called.
  constexpr unsigned num_levels = 3;
  if (level >= num_levels || error->desc == nullptr) return 0;
  auto& joined = *static_cast<std::string*>(text);
  if (joined.find(error->desc) != std::string::npos) return 0;
  if (!joined.empty()) joined += ", ";
  joined += error->desc;
  return 0;
}

}  // namespace

std::string hdf5_error_text() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, append_reason, &text);
  H5Eclear2(H5E_DEFAULT);
  // Some reasons hold the time with its line break; an error is one line. Bytes from a damaged file
  // are for no terminal either.
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  return text.empty() ? "no reason given" : text;
}

void silence_hdf5() {
  static const bool silent = H5open() >= 0 && H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  if (!silent) throw Hdf5Failure("the HDF5 library cannot be started");
}

void Hdf5Handle::close() {
  const hid_t id = std::exchange(id_, H5I_INVALID_HID);
  if (id >= 0) REVODE_HDF5(close_(id));
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  REVODE_HDF5(H5get_libversion(&major, &minor, &release));
  return fmt::format("{}.{}.{}", major, minor, release);
}

Hdf5Handle access_alone() {
  Hdf5Handle access(REVODE_HDF5(H5Pcreate(H5P_FILE_ACCESS)), H5Pclose);
  REVODE_HDF5(H5Pset_file_locking(access.get(), false, true));
  return access;
}

Hdf5Selection select_rows(hid_t dataset, const std::vector<std::int64_t>& shape,
                          std::int64_t first_row, std::int64_t num_rows) {
  std::vector<hsize_t> start(shape.size(), 0);
  std::vector<hsize_t> count(shape.begin(), shape.end());
  start[0] = first_row;
  count[0] = num_rows;
  hsize_t num_elements = 1;
  for (const hsize_t extent : count) num_elements *= extent;

  Hdf5Selection selection;
  selection.file = {REVODE_HDF5(H5Dget_space(dataset)), H5Sclose};
  selection.memory = {REVODE_HDF5(H5Screate_simple(1, &num_elements, nullptr)), H5Sclose};
  REVODE_HDF5(H5Sselect_hyperslab(selection.file.get(), H5S_SELECT_SET, start.data(), nullptr,
                                  count.data(), nullptr));
  return selection;
}

void detail::hdf5_failed(const char* call, const char* file, int line) {
  const std::string_view name = std::string_view(call).substr(0, std::string_view(call).find('('));
  const std::string_view path = file;
  throw Hdf5Failure(fmt::format("HDF5 says: {} ({} at {}:{})", hdf5_error_text(), name,
                                path.substr(path.rfind('/') + 1), line));
}

}  // namespace revode
