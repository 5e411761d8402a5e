// Files of fixed-size records: opened, measured and read with errors that name them. Knows nothing
// of what a record holds.
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "revode/core/error.hpp"
#include "revode/core/host_memory.hpp"
#include "revode/files/file_kind.hpp"

#include "data/dataset_readers.hpp"

namespace revode {

RecordFile::RecordFile(const std::filesystem::path& file, std::int64_t record_bytes,
                       const std::string& what)
    : path_(file), record_bytes_(record_bytes) {
  // Looked at before it is opened: opening a FIFO waits for a writer, a device may do anything.
  std::error_code error;
  const std::filesystem::file_type kind = std::filesystem::status(file, error).type();
  REVODE_REQUIRE(
      kind != std::filesystem::file_type::not_found && kind != std::filesystem::file_type::none,
      "cannot read '{}': {}", file.string(), error.message());
  REVODE_REQUIRE(kind == std::filesystem::file_type::regular,
                 "cannot read '{}': it is {}, expected a regular file", file.string(),
                 kind_in_words(kind));
  descriptor_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  REVODE_REQUIRE(descriptor_ >= 0, "cannot read '{}': {}", file.string(), std::strerror(errno));
  struct stat status {};
  const bool measured = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  const std::int64_t bytes = measured ? status.st_size : 0;
  num_records_ = bytes / record_bytes;
  if (measured && bytes > 0 && bytes % record_bytes == 0) return;

  ::close(descriptor_);  // No destructor runs for an object that was not made.
  REVODE_REQUIRE(measured, "cannot read '{}': it is not a regular file", file.string());
  REVODE_REQUIRE(bytes > 0, "'{}' is empty, expected {} of {} bytes each", file.string(), what,
                 record_bytes);
  throw input_error(
      "'{}' has {} bytes, expected a multiple of {} (one for each of its {}): it is damaged or "
      "another format",
      file.string(), bytes, record_bytes, what);
}

RecordFile::~RecordFile() { ::close(descriptor_); }

void RecordFile::read(std::int64_t offset, std::uint8_t* bytes, std::int64_t count) const {
  while (count > 0) {
    const ssize_t done = ::pread(descriptor_, bytes, count, offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw input_error("cannot read '{}': {}", path_.string(), std::strerror(errno));
    REVODE_REQUIRE(done > 0, "'{}' ended at byte {} while it was read, expected {} bytes more",
                   path_.string(), offset, count);
    offset += done;
    bytes += done;
    count -= done;
  }
}

void check_memory(const RecordFile& largest, std::int64_t needed_bytes) {
  const std::int64_t host_bytes = host_memory_bytes();
  REVODE_REQUIRE(host_bytes == 0 || needed_bytes <= host_bytes,
                 "'{}' has {} bytes: its split takes {} bytes of memory, and this host has {}",
                 largest.path().string(), largest.bytes(), needed_bytes, host_bytes);
}

void check_label(const std::filesystem::path& file, std::int64_t record, int label, int first,
                 int num_classes) {
  REVODE_REQUIRE(label >= first && label < first + num_classes,
                 "'{}' has the label {} in record {} (counted from 0), expected {} to {}: it is "
                 "damaged or another format",
                 file.string(), label, record, first, first + num_classes - 1);
}

}  // namespace revode
