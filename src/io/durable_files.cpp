#include "io/durable_files.hpp"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include "revode/core/error.hpp"

namespace revode {

namespace fs = std::filesystem;

fs::path temporary_name(const fs::path& file) {
  return file.parent_path() / fmt::format(".{}.tmp", file.filename().string());
}

void sync_to_disk(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  bool synced = descriptor >= 0 && ::fsync(descriptor) == 0;
  const int reason = errno;
  // Some network file systems cannot sync a folder and say so with EINVAL: there is nothing more to
  // do then.
  if (descriptor >= 0 && !synced && reason == EINVAL) synced = true;
  if (descriptor >= 0) ::close(descriptor);
  if (!synced) throw run_error("cannot sync '{}': {}", path.string(), std::strerror(reason));
}

void check_can_write(const fs::path& file, std::uintmax_t bytes) {
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw run_error("cannot write '{}': there is no folder '{}'", file.string(), folder.string());
  }
  if (fs::is_directory(file, error)) {
    throw run_error("cannot write '{}': it is a folder, expected a file name", file.string());
  }
  if (::access(folder.c_str(), W_OK) != 0) {
    throw run_error("cannot write '{}': {}", file.string(), std::strerror(errno));
  }
  const fs::space_info space = fs::space(folder, error);
  if (!error && space.available < bytes) {
    throw run_error("cannot write '{}': it needs {} bytes, and the disk has {} left", file.string(),
                    bytes, space.available);
  }
}

void reserve_space(const fs::path& file, std::uintmax_t bytes) {
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) {
    throw run_error("cannot write '{}': {}", file.string(), std::strerror(errno));
  }
  const bool reserved = ::fallocate(descriptor, 0, 0, static_cast<off_t>(bytes)) == 0;
  const int reason = errno;
  ::close(descriptor);
  if (reserved || reason == EOPNOTSUPP || reason == ENOSYS || reason == EINVAL) return;
  throw run_error("cannot write the {} bytes of '{}': {}", bytes, file.string(),
                  std::strerror(reason));
}

}  // namespace revode
