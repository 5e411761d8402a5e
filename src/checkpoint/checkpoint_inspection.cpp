#include "checkpoint/checkpoint_inspection.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string_view>

#include <zlib.h>

#include "revode/core/error.hpp"
#include "revode/files/file_kind.hpp"
#include "revode/files/json_text.hpp"

#include "checkpoint/checkpoint_format.hpp"
#include "checkpoint/checksums.hpp"

namespace revode {

namespace fs = std::filesystem;
namespace format = checkpoint_format;

namespace {

/// What is no UTF-8 in `text` replaced: JSON holds nothing else, and messages should not.
std::string valid_text(const std::string& text) {
  return parse_json(to_printable_text(text)).get<std::string>();
}

/// The text of an attribute of fixed or variable length. Padding (zeros or spaces) is cut off.
std::string read_text(hid_t attribute, hid_t type) {
  if (REVODE_HDF5(H5Tis_variable_str(type)) > 0) {
    char* text = nullptr;
    const Hdf5Handle memory_type(REVODE_HDF5(H5Tcopy(H5T_C_S1)), H5Tclose);
    REVODE_HDF5(H5Tset_size(memory_type.get(), H5T_VARIABLE));
    REVODE_HDF5(H5Tset_cset(memory_type.get(), H5Tget_cset(type)));
    REVODE_HDF5(H5Aread(attribute, memory_type.get(), &text));
    const std::unique_ptr<char, herr_t (*)(void*)> owner(text, H5free_memory);
    return text == nullptr ? "" : valid_text(text);
  }
  std::string text(H5Tget_size(type), '\0');
  REVODE_HDF5(H5Aread(attribute, type, text.data()));
  text.resize(std::min(text.find('\0'), text.size()));
  if (H5Tget_strpad(type) == H5T_STR_SPACEPAD) text.resize(text.find_last_not_of(' ') + 1);
  return valid_text(text);
}

Hdf5Handle open_checked(const fs::path& file) {
  const htri_t is_hdf5 = H5Fis_hdf5(file.c_str());
  if (is_hdf5 < 0) hdf5_error_text();  // Only the answer counts: clear the library's reasons.
  REVODE_REQUIRE(is_hdf5 > 0,
                 "'{}' is not an HDF5 file or its beginning is damaged, expected a checkpoint",
                 file.string());
  try {
    return open_alone(file);
  } catch (const Hdf5Failure& failure) {
    throw input_error("'{}' is damaged or incomplete: {}", file.string(), failure.what());
  }
}

void check_format(const fs::path& file, hid_t root) {
  REVODE_REQUIRE(has_attribute(root, format::format_attribute),
                 "'{}' is an HDF5 file but no checkpoint: its root has no attribute '{}', expected "
                 "\"{}\"",
                 file.string(), format::format_attribute, format::format_name);
  const nlohmann::json name = read_value(root, format::format_attribute);
  REVODE_REQUIRE(name == format::format_name,
                 "'{}' is no checkpoint of this program: its attribute '{}' is {}, expected \"{}\"",
                 file.string(), format::format_attribute, to_text(name), format::format_name);
  REVODE_REQUIRE(has_attribute(root, format::version_attribute),
                 "'{}' has no attribute '{}', expected {}", file.string(),
                 format::version_attribute, format::version);
  const nlohmann::json version = read_value(root, format::version_attribute);
  REVODE_REQUIRE(version.is_number_integer() && version >= 1,
                 "'{}' has the attribute '{}' = {}, expected the whole number {}", file.string(),
                 format::version_attribute, to_text(version), format::version);
  REVODE_REQUIRE(version <= format::version,
                 "'{}' has version {} of the format and this program reads version {}: use a newer "
                 "program",
                 file.string(), to_text(version), format::version);
}

nlohmann::json parse_config(const fs::path& file, const std::string& text) {
  const auto check_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    REVODE_REQUIRE(depth <= max_json_depth,
                   "'{}' has an attribute '{}' of more than {} levels, expected a JSON object of "
                   "options",
                   file.string(), format::config_attribute, max_json_depth);
    return true;
  };
  try {
    return nlohmann::json::parse(text, check_depth);
  } catch (const nlohmann::json::parse_error& error) {
    throw input_error("'{}' has an attribute '{}' that is not JSON from its byte {} on",
                      file.string(), format::config_attribute, error.byte);
  } catch (const nlohmann::json::exception& error) {
    // "[json.exception.out_of_range.406] number overflow parsing '1e400'"
    const std::string_view reason = error.what();
    const std::size_t end = reason.find("] ");
    throw input_error("'{}' has an attribute '{}' that can't be read: {}", file.string(),
                      format::config_attribute,
                      end == reason.npos ? reason : reason.substr(end + 2));
  }
}

nlohmann::json read_config(const fs::path& file, hid_t root) {
  REVODE_REQUIRE(has_attribute(root, format::config_attribute),
                 "'{}' has no attribute '{}', expected the model's options as JSON text",
                 file.string(), format::config_attribute);
  const nlohmann::json text = read_value(root, format::config_attribute);
  REVODE_REQUIRE(text.is_string(), "'{}' has an attribute '{}' that is no text, expected JSON",
                 file.string(), format::config_attribute);
  const nlohmann::json config = parse_config(file, text.get<std::string>());
  REVODE_REQUIRE(config.is_object(),
                 "'{}' has an attribute '{}' that holds {}, expected a JSON object of options",
                 file.string(), format::config_attribute, config.type_name());
  return config;
}

/// Called once an attribute; may not throw through the library.
herr_t collect_attribute(hid_t, const char* name, const H5A_info_t*, void* names) noexcept {
  static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

nlohmann::json read_progress(hid_t file) {
  nlohmann::json progress = nlohmann::json::object();
  if (REVODE_HDF5(H5Lexists(file, format::progress_group, H5P_DEFAULT)) == 0) return progress;
  const Hdf5Handle group(REVODE_HDF5(H5Oopen(file, format::progress_group, H5P_DEFAULT)), H5Oclose);
  // H5Aiterate2() of HDF5 1.10 crashes where an attribute is damaged. Asking for one that is not
  // there looks at all of them as well, and only fails.
  has_attribute(group.get(), "no attribute of ours");
  std::vector<std::string> names;
  REVODE_HDF5(
      H5Aiterate2(group.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_attribute, &names));
  for (const std::string& name : names) {
    nlohmann::json value = read_value(group.get(), name);
    if (!value.is_null()) progress[valid_text(name)] = std::move(value);
  }
  return progress;
}

std::string type_in_words(hid_t type) {
  const std::size_t bits = 8 * H5Tget_size(type);
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      return fmt::format("float{}", bits);
    case H5T_INTEGER:
      return fmt::format("{}int{}", H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "", bits);
    case H5T_STRING:
      return "text";
    case H5T_COMPOUND:
      return "compound (complex numbers are stored so)";
    default:
      return "of another type";
  }
}

/// Called once an object of the file; may not throw through the library.
herr_t collect_dataset(hid_t, const char* name, const H5O_info_t* info, void* paths) noexcept {
  if (info->type == H5O_TYPE_DATASET) {
    static_cast<std::vector<std::string>*>(paths)->push_back(fmt::format("/{}", name));
  }
  return 0;
}

std::string shape_in_words(const std::vector<std::int64_t>& shape) {
  return to_text(nlohmann::json(shape));
}

/// Refuses an array that claims more elements than its file can hold: who reads it makes room for
/// them first. Their number fits in 64 bits afterwards.
void check_claim(const fs::path& file, const FoundDataset& dataset, std::uint64_t file_bytes) {
  // The most that deflate, the strongest of HDF5's filters, makes of a byte.
  constexpr double most_bytes_of_a_byte = 1032;
  const double most_elements =
      most_bytes_of_a_byte * static_cast<double>(file_bytes) / sizeof(float);
  double elements = 1;
  for (const std::int64_t extent : dataset.shape)
    elements *= extent < 0 ? 2.0 * most_elements  // as unsigned, beyond 2^63
                           : std::max(1.0, static_cast<double>(extent));
  REVODE_REQUIRE(elements <= most_elements,
                 "'{}' is damaged: its array {} of shape {} is more than a file of {} bytes holds",
                 file.string(), dataset.path, shape_in_words(dataset.shape), file_bytes);
}

}  // namespace

nlohmann::json read_value(hid_t object, const std::string& name) {
  const Hdf5Handle attribute(REVODE_HDF5(H5Aopen(object, name.c_str(), H5P_DEFAULT)), H5Aclose);
  const Hdf5Handle type(REVODE_HDF5(H5Aget_type(attribute.get())), H5Tclose);
  const Hdf5Handle space(REVODE_HDF5(H5Aget_space(attribute.get())), H5Sclose);
  if (H5Sget_simple_extent_npoints(space.get()) != 1) return nullptr;
  switch (H5Tget_class(type.get())) {
    case H5T_STRING:
      return read_text(attribute.get(), type.get());
    case H5T_INTEGER: {
      if (H5Tget_sign(type.get()) == H5T_SGN_NONE) {
        std::uint64_t value = 0;
        REVODE_HDF5(H5Aread(attribute.get(), H5T_NATIVE_UINT64, &value));
        return value;
      }
      std::int64_t value = 0;
      REVODE_HDF5(H5Aread(attribute.get(), H5T_NATIVE_INT64, &value));
      return value;
    }
    case H5T_FLOAT: {
      double value = 0;
      REVODE_HDF5(H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value));
      return value;
    }
    default:
      return nullptr;
  }
}

bool has_attribute(hid_t object, const char* name) {
  return REVODE_HDF5(H5Aexists(object, name)) > 0;
}

Hdf5Handle open_alone(const fs::path& file) {
  const Hdf5Handle access = access_alone();
  return {REVODE_HDF5(H5Fopen(file.c_str(), H5F_ACC_RDONLY, access.get())), H5Fclose};
}

void check_file(const fs::path& file) {
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (status.type() == fs::file_type::not_found && fs::is_symlink(file, error)) {
    throw input_error("the link '{}' points to '{}', which does not exist", file.string(),
                      fs::read_symlink(file, error).string());
  }
  REVODE_REQUIRE(status.type() != fs::file_type::not_found, "the checkpoint '{}' does not exist",
                 file.string());
  REVODE_REQUIRE(status.type() != fs::file_type::directory,
                 "'{}' is a folder, expected a checkpoint file such as '{}'", file.string(),
                 (file / "latest.h5").string());
  REVODE_REQUIRE(status.type() != fs::file_type::none, "cannot read '{}': {}", file.string(),
                 error.message());
  REVODE_REQUIRE(status.type() == fs::file_type::regular,
                 "cannot read '{}': it is {}, expected a regular file", file.string(),
                 kind_in_words(status.type()));
  std::FILE* opened = std::fopen(file.c_str(), "rb");
  REVODE_REQUIRE(opened != nullptr, "cannot read '{}': {}", file.string(), std::strerror(errno));
  std::fclose(opened);
}

std::vector<FoundDataset> find_datasets(hid_t file) {
  std::vector<std::string> paths;
  REVODE_HDF5(H5Ovisit(file, H5_INDEX_NAME, H5_ITER_INC, collect_dataset, &paths));
  std::sort(paths.begin(), paths.end());
  std::vector<FoundDataset> datasets;
  for (const std::string& path : paths) {
    const Hdf5Handle dataset(REVODE_HDF5(H5Dopen2(file, path.c_str(), H5P_DEFAULT)), H5Dclose);
    const Hdf5Handle type(REVODE_HDF5(H5Dget_type(dataset.get())), H5Tclose);
    const Hdf5Handle space(REVODE_HDF5(H5Dget_space(dataset.get())), H5Sclose);
    std::vector<hsize_t> extents(REVODE_HDF5(H5Sget_simple_extent_ndims(space.get())));
    REVODE_HDF5(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr));
    // The library makes room for the elements that it converts, however long the file says they
    // are.
    const bool is_short = H5Tget_size(type.get()) <= sizeof(double);
    datasets.push_back({path,
                        {extents.begin(), extents.end()},
                        is_short && H5Tget_class(type.get()) == H5T_FLOAT,
                        type_in_words(type.get())});
  }
  return datasets;
}

Inspection inspect_checkpoint(const fs::path& file, bool verify_checksums) {
  check_file(file);
  const Hdf5Handle opened = open_checked(file);
  const auto inspect = [&]() -> Inspection {
    if (verify_checksums) check_checksums(file);
    check_format(file, opened.get());
    Inspection found;
    found.config = read_config(file, opened.get());
    found.progress = read_progress(opened.get());
    found.datasets = find_datasets(opened.get());
    std::erase_if(found.datasets, [](const FoundDataset& dataset) {
      return valid_text(dataset.path) != dataset.path;  // nothing of ours has such a name
    });
    found.has_checksums = has_checksums(file);
    found.identity = identity_of(file);
    for (const FoundDataset& dataset : found.datasets)
      if (dataset.is_floating_point) check_claim(file, dataset, found.identity.bytes);
    return found;
  };
  try {
    return inspect();
  } catch (const Hdf5Failure& failure) {
    throw input_error("'{}' is damaged: {}", file.string(), failure.what());
  } catch (const nlohmann::json::exception& error) {
    throw input_error("'{}' holds attributes that can't be read: {}", file.string(), error.what());
  } catch (const std::bad_alloc&) {
    throw input_error("'{}' is damaged: it claims more than fits in memory", file.string());
  } catch (const std::length_error&) {
    throw input_error("'{}' is damaged: it claims more than fits in memory", file.string());
  }
}

FileIdentity identity_of(const fs::path& file) {
  FileIdentity identity;
  std::error_code error;
  identity.bytes = fs::file_size(file, error);
  // Checksums lie at the beginning, up to the first zero.
  const bool by_checksums = has_checksums(file);
  std::ifstream stream(file, std::ios::binary);
  std::vector<char> piece(1 << 16);
  for (bool more = true; more && !error && stream;) {
    stream.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    auto end = piece.begin() + stream.gcount();
    if (by_checksums) {
      const auto zero = std::find(piece.begin(), end, '\0');
      more = zero == end;
      end = zero;
    }
    identity.digest = static_cast<std::uint32_t>(
        crc32_z(identity.digest, reinterpret_cast<const unsigned char*>(piece.data()),
                static_cast<std::size_t>(end - piece.begin())));
  }
  if (error || stream.bad()) throw input_error("cannot read '{}'", file.string());
  return identity;
}

void check_array(const fs::path& file, const std::vector<FoundDataset>& datasets,
                 const std::string& path, const std::vector<std::int64_t>& shape) {
  const auto found =
      std::find_if(datasets.begin(), datasets.end(),
                   [&](const FoundDataset& dataset) { return dataset.path == path; });
  REVODE_REQUIRE(found != datasets.end(), "'{}' has no array {}, expected one of shape {}",
                 file.string(), path, shape_in_words(shape));
  REVODE_REQUIRE(found->is_floating_point, "'{}' has the array {} as {}, expected float32",
                 file.string(), path, found->type);
  REVODE_REQUIRE(found->shape == shape, "'{}' has the array {} with shape {}, expected {}",
                 file.string(), path, shape_in_words(found->shape), shape_in_words(shape));
}

}  // namespace revode
