// HDF5 identifiers that close themselves, and calls that throw with the library's own words. The
// one place that includes hdf5.h, so that the version of its interface is chosen once.
#pragma once

#define H5_USE_110_API  // Newer libraries keep the calls of 1.10 under this name.
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <hdf5.h>

namespace revode {

/// A call of the library failed; the text holds its error stack. Callers turn it into an Error that
/// names the file.
struct Hdf5Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// An owned identifier. Closed when it goes, without a check; close() closes with one.
class Hdf5Handle {
 public:
  using Close = herr_t (*)(hid_t);

  Hdf5Handle() = default;
  Hdf5Handle(hid_t id, Close close_function) : id_(id), close_(close_function) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept { swap(other); }
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    Hdf5Handle(std::move(other)).swap(*this);
    return *this;
  }
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }

  hid_t get() const { return id_; }
  void close();
  void swap(Hdf5Handle& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
  }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close close_ = nullptr;
};

/// The error stack of the last failed call, innermost reason first, in one line; the stack is
/// cleared.
std::string hdf5_error_text();

/// How files are opened by one process. Without locks, which many cluster file systems lack: files
/// are complete or absent.
Hdf5Handle access_alone();

/// Which elements of a dataset go from or to which of a contiguous array in memory.
struct Hdf5Selection {
  Hdf5Handle file;
  Hdf5Handle memory;
};

/// Rows [first_row, first_row + num_rows) of a dataset of `shape` (row = first index) <-> a
/// contiguous array; num_rows >= 1.
Hdf5Selection select_rows(hid_t dataset, const std::vector<std::int64_t>& shape,
                          std::int64_t first_row, std::int64_t num_rows);

/// Stops the library from printing errors by itself; to be called before anything else of it. Cheap
/// to repeat.
void silence_hdf5();

namespace detail {
[[noreturn]] void hdf5_failed(const char* call, const char* file, int line);

template <typename Result>
Result hdf5_checked(Result result, const char* call, const char* file, int line) {
  if (result < 0) hdf5_failed(call, file, line);
  return result;
}
}  // namespace detail

}  // namespace revode

/// Evaluates the call once; its result where it is not negative, else an Hdf5Failure.
#define REVODE_HDF5(call) ::revode::detail::hdf5_checked((call), #call, __FILE__, __LINE__)
