#include "revode/checkpoint/file_content.hpp"

#include "checkpoint/checkpoint_format.hpp"
#include "checkpoint/checkpoint_inspection.hpp"
#include "checkpoint/hdf5_handles.hpp"

namespace revode {

namespace fs = std::filesystem;
namespace format = checkpoint_format;

namespace {

FileContent content_of_hdf5(hid_t file) {
  const auto has = [&](const char* path) {
    return REVODE_HDF5(H5Lexists(file, path, H5P_DEFAULT)) > 0;
  };
  if (!has_attribute(file, format::format_attribute)) return FileContent::other;
  if (read_value(file, format::format_attribute) != format::format_name) return FileContent::other;
  if (!has("/logits")) return FileContent::checkpoint;
  if (has("/model")) {
    return has_attribute(file, "regularization") ? FileContent::gradient_result
                                                 : FileContent::checkpoint;
  }
  return has("/labels") ? FileContent::eval_result : FileContent::checkpoint;
}

}  // namespace

FileContent content_of(const fs::path& file) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return FileContent::other;
  try {
    silence_hdf5();
    return content_of_hdf5(open_alone(file).get());
  } catch (const Hdf5Failure&) {
    return FileContent::other;
  }
}

}  // namespace revode
