// What a dataset's reader offers to the registry in dataset.cpp, and how readers meet files of
// fixed-size records.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "revode/data/dataset.hpp"

namespace revode {

/// Everything a reader is told. `files` are the split's files inside `folder`, known to exist, in
/// the registry's order.
struct ReadRequest {
  const DatasetInfo& info;
  std::filesystem::path folder;
  std::vector<std::string> files;
  Split split;
  Contents contents;
};

/// As many at any size up to 128 x 128; of larger ones fewer, which hold as many pixels.
std::int64_t num_synthetic_images(Split split, int side);
Dataset read_synthetic(const ReadRequest& request);
Dataset read_cifar10(const ReadRequest& request);
Dataset read_cifar100(const ReadRequest& request);
Dataset read_stl10(const ReadRequest& request);

/// A file of `record_bytes`-sized records, open for reading. Throws an input error that names the
/// file where it cannot be opened, is empty or holds no whole number of records; `what` ("CIFAR-10
/// records") goes into the message.
class RecordFile {
 public:
  RecordFile(const std::filesystem::path& file, std::int64_t record_bytes, const std::string& what);
  ~RecordFile();
  RecordFile(const RecordFile&) = delete;
  RecordFile& operator=(const RecordFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::int64_t num_records() const { return num_records_; }
  std::int64_t bytes() const { return num_records_ * record_bytes_; }

  /// bytes[0, count) <- the file from `offset`.
  void read(std::int64_t offset, std::uint8_t* bytes, std::int64_t count) const;

 private:
  std::filesystem::path path_;
  std::int64_t record_bytes_;
  int descriptor_ = -1;
  std::int64_t num_records_ = 0;
};

/// Throws an input error where a split needs more memory than this host has; `largest` of its files
/// is named.
void check_memory(const RecordFile& largest, std::int64_t needed_bytes);

/// Throws where a label is outside first .. first + num_classes - 1; `record` counts from 0 in
/// `file`.
void check_label(const std::filesystem::path& file, std::int64_t record, int label, int first,
                 int num_classes);

}  // namespace revode
