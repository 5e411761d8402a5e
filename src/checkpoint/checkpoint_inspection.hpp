// What one process learns of a checkpoint file without reading its arrays, or why it is none.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoint/hdf5_handles.hpp"

namespace revode {

struct FoundDataset {
  std::string path;
  std::vector<std::int64_t> shape;
  bool is_floating_point = false;
  std::string type;  ///< in words, for messages
};

/// By which ranks tell whether they see the same file.
struct FileIdentity {
  std::uint64_t bytes = 0;
  std::uint32_t digest = 0;  ///< CRC-32 of its checksums where it has them, else of all its bytes
  bool operator==(const FileIdentity&) const = default;
};

/// As JSON it passes from the rank that looked to the others.
struct Inspection {
  nlohmann::json config;
  nlohmann::json progress;             ///< {} where there is none
  std::vector<FoundDataset> datasets;  ///< in the order of their paths
  bool has_checksums = false;
  FileIdentity identity;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(FoundDataset, path, shape, is_floating_point, type)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(FileIdentity, bytes, digest)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Inspection, config, progress, datasets, has_checksums, identity)

/// Throws an input error where there is no file that this process can read.
void check_file(const std::filesystem::path& file);

/// Reads the whole file where it has no checksums. Throws an input error.
FileIdentity identity_of(const std::filesystem::path& file);

/// Opens for one process. Throws Hdf5Failure.
Hdf5Handle open_alone(const std::filesystem::path& file);

bool has_attribute(hid_t object, const char* name);

/// A scalar attribute (or an array of one element) as JSON; null for types that are neither number
/// nor text. Throws Hdf5Failure.
nlohmann::json read_value(hid_t object, const std::string& name);

/// Every dataset of an open file, in the order of their paths. Throws Hdf5Failure.
std::vector<FoundDataset> find_datasets(hid_t file);

/// Throws an input error of one sentence where the file is no checkpoint that this program reads,
/// or (with verify_checksums) is not what was written.
Inspection inspect_checkpoint(const std::filesystem::path& file, bool verify_checksums);

/// Throws an input error where there is no such array, or one of another shape or type.
void check_array(const std::filesystem::path& file, const std::vector<FoundDataset>& datasets,
                 const std::string& path, const std::vector<std::int64_t>& shape);

}  // namespace revode
