#include "revode/files/durable_files.hpp"

#include <cerrno>
#include <cstring>
#include <random>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

#include "revode/core/error.hpp"

namespace revode {

namespace fs = std::filesystem;

namespace {

/// Calls make(path), which says with errno how it went, with names until one is new.
template <typename Make>
fs::path make_under_new_name(const fs::path& file, Make&& make) {
  constexpr std::string_view signs =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  std::random_device random;
  std::uniform_int_distribution<std::size_t> place(0, signs.size() - 1);
  while (true) {
    std::string suffix;
    for (std::size_t i = 0; i < num_temporary_signs; ++i) suffix += signs[place(random)];
    const fs::path path =
        file.parent_path() / fmt::format(".{}.{}.tmp", file.filename().string(), suffix);
    if (make(path)) return path;
    if (errno != EEXIST)
      throw run_error("cannot write '{}': {}", file.string(), std::strerror(errno));
  }
}

}  // namespace

fs::path make_temporary_file(const fs::path& file) {
  return make_under_new_name(file, [](const fs::path& path) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0) return false;
    if (::close(descriptor) == 0) return true;
    const int reason = errno;
    ::unlink(path.c_str());
    errno = reason;
    return false;
  });
}

TemporaryFile::~TemporaryFile() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove(path_, ignored);
}

fs::path make_temporary_link(const fs::path& target, const fs::path& file) {
  return make_under_new_name(
      file, [&](const fs::path& path) { return ::symlink(target.c_str(), path.c_str()) == 0; });
}

void sync_to_disk(const fs::path& path, const fs::path& shown) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  bool synced = descriptor >= 0 && ::fsync(descriptor) == 0;
  const int reason = errno;
  // Some network file systems cannot sync a folder and say so with EINVAL: there is nothing more to
  // do then.
  if (descriptor >= 0 && !synced && reason == EINVAL) synced = true;
  if (descriptor >= 0) ::close(descriptor);
  if (!synced) throw run_error("cannot sync '{}': {}", shown.string(), std::strerror(reason));
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

void reserve_space(const fs::path& file, std::uintmax_t bytes, const fs::path& shown) {
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) {
    throw run_error("cannot write '{}': {}", shown.string(), std::strerror(errno));
  }
  const auto size = static_cast<off_t>(bytes);
  bool reserved = ::fallocate(descriptor, 0, 0, size) == 0;
  if (!reserved && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
    reserved = ::ftruncate(descriptor, size) == 0;
  const int reason = errno;
  ::close(descriptor);
  if (reserved) return;
  throw run_error("cannot write the {} bytes of '{}': {}", bytes, shown.string(),
                  std::strerror(reason));
}

void write_pieces(const fs::path& file, const std::vector<PlacedBytes>& pieces,
                  const fs::path& shown) {
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CLOEXEC);
  bool written = descriptor >= 0;
  for (PlacedBytes piece : pieces) {
    while (written && piece.size > 0) {
      const ssize_t part =
          ::pwrite(descriptor, piece.data, piece.size, static_cast<off_t>(piece.offset));
      if (part < 0 && errno == EINTR) continue;
      written = part >= 0;
      if (!written) break;
      piece.data = static_cast<const char*>(piece.data) + part;
      piece.size -= static_cast<std::size_t>(part);
      piece.offset += static_cast<std::uint64_t>(part);
    }
  }
  written = written && ::fsync(descriptor) == 0;
  const int reason = errno;
  // What the system says here is no news after fsync().
  if (descriptor >= 0) ::close(descriptor);
  if (!written) throw run_error("cannot write '{}': {}", shown.string(), std::strerror(reason));
}

}  // namespace revode
