// A library for LD_PRELOAD that makes calls of the system fail, for files under one folder: as on a
// disk that is full, damaged, slow, or gone. What is to fail comes from the environment:
//   REVODE_FAULT_FOLDER  files in it, and the folder itself, by their names; whole path
//   REVODE_FAULT_KINDS   of calls, separated by commas: open, write, sync, rename, link, reserve,
//                        mkdir, unlink, close
//   REVODE_FAULT_AT      the first call of these kinds that fails, from 1; 0: none
//   REVODE_FAULT_TIMES   how many fail from there on; 0: all (default 1)
//   REVODE_FAULT_HOW     a name such as ENOSPC: the call does nothing and fails (a file that is to
//                        be closed is closed); short: a write stops after half of its bytes; a
//                        number: the call waits for so many milliseconds first; vanish: the folder
//                        is renamed to the same with .gone at its end before the call
//   REVODE_FAULT_RANK    fails on this rank alone (default: on each)
//   REVODE_FAULT_LOG     gets a line a call under the folder, of whatever kind: rank, kind, the
//                        number of its kind on this rank, struck or not, name of the file
// glibc's own functions call each other past this library: what a FILE writes is not seen, and
// fopen(), mkstemps() and remove() are taken for what they do.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;

enum Kind { open_, write_, sync_, rename_, link_, reserve_, mkdir_, unlink_, close_, num_kinds };
constexpr std::array<std::string_view, num_kinds> kind_names{
    "open", "write", "sync", "rename", "link", "reserve", "mkdir", "unlink", "close"};

struct ErrorName {
  std::string_view name;
  int number;
};
constexpr ErrorName error_names[] = {{"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT},
                                     {"EROFS", EROFS},   {"ENOENT", ENOENT}, {"EACCES", EACCES},
                                     {"ESTALE", ESTALE}, {"EINTR", EINTR}};

std::string variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

[[noreturn]] void refuse(const std::string& what) {
  std::fprintf(stderr, "failing_files: %s\n", what.c_str());
  std::_Exit(99);
}

enum class How { fail, half, wait, vanish };

struct Faults {
  std::string folder = variable("REVODE_FAULT_FOLDER");
  std::array<bool, num_kinds> strikes{};
  long at = 0, times = 1;
  How how = How::fail;
  int error = EIO;
  std::chrono::milliseconds pause{0};
  std::string rank = variable("OMPI_COMM_WORLD_RANK");
  bool of_this_rank = true;
  int log = -1;
  std::atomic<long> num_struck{0};
  std::array<std::atomic<long>, num_kinds> counts{};

  Faults() {
    if (rank.empty()) rank = variable("PMI_RANK");
    if (rank.empty()) rank = "0";
    std::string kinds = variable("REVODE_FAULT_KINDS");
    for (std::size_t begin = 0; begin < kinds.size();) {
      const std::size_t end = std::min(kinds.find(',', begin), kinds.size());
      std::size_t kind = 0;
      while (kind < num_kinds && kinds.compare(begin, end - begin, kind_names[kind]) != 0) ++kind;
      if (kind == num_kinds) refuse("REVODE_FAULT_KINDS: no such kind in " + kinds);
      strikes[kind] = true;
      begin = end + 1;
    }
    at = std::atol(variable("REVODE_FAULT_AT").c_str());
    if (const std::string text = variable("REVODE_FAULT_TIMES"); !text.empty())
      times = std::atol(text.c_str());
    if (const std::string only = variable("REVODE_FAULT_RANK"); !only.empty())
      of_this_rank = only == rank;
    read_how(variable("REVODE_FAULT_HOW"));
    if (const std::string path = variable("REVODE_FAULT_LOG"); !path.empty())
      log = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path.c_str(),
                                       O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  }

  void read_how(const std::string& text) {
    if (text == "short" || text == "vanish") {
      how = text == "short" ? How::half : How::vanish;
      return;
    }
    if (!text.empty() && text.find_first_not_of("0123456789") == std::string::npos) {
      how = How::wait;
      pause = std::chrono::milliseconds(std::atol(text.c_str()));
      return;
    }
    for (const ErrorName& known : error_names) {
      if (text != known.name) continue;
      error = known.number;
      return;
    }
    if (!text.empty()) refuse("REVODE_FAULT_HOW: unknown: " + text);
  }
};

Faults& faults() {
  static auto& all = *new Faults;  // threads may still call at the end of the process
  return all;
}

/// Names of the files under the folder that are open, by descriptor; empty: not one of them.
class OpenFiles {
 public:
  void set(int descriptor, const std::string& name) {
    if (!known(descriptor)) return;
    const std::lock_guard lock(mutex_);
    names_[descriptor] = name;
  }
  std::string take(int descriptor) {
    if (!known(descriptor)) return "";
    const std::lock_guard lock(mutex_);
    return std::exchange(names_[descriptor], "");
  }
  std::string name(int descriptor) {
    if (!known(descriptor)) return "";
    const std::lock_guard lock(mutex_);
    return names_[descriptor];
  }

 private:
  static constexpr int most = 4096;
  static bool known(int descriptor) { return descriptor >= 0 && descriptor < most; }
  std::mutex mutex_;
  std::array<std::string, most> names_;
};

OpenFiles& open_files() {
  static auto& all = *new OpenFiles;
  return all;
}

/// The path below the folder, "." for itself; empty where it is elsewhere.
std::string name_below(const char* path, int at = AT_FDCWD) {
  const std::string& folder = faults().folder;
  if (folder.empty() || path == nullptr) return "";
  fs::path whole = path;
  if (!whole.is_absolute()) {
    std::array<char, 4096> place{};
    const std::string link =
        at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/" + std::to_string(at);
    if (::readlink(link.c_str(), place.data(), place.size() - 1) < 0) return "";
    whole = fs::path(place.data()) / whole;
  }
  std::string text = whole.lexically_normal().string();
  if (text.size() > 1 && text.ends_with('/')) text.pop_back();
  if (text == folder) return ".";
  return text.starts_with(folder + "/") ? text.substr(folder.size() + 1) : "";
}

/// Counts a call; whether it is to be struck.
bool is_struck(Kind kind, const std::string& name) {
  Faults& all = faults();
  const long number = ++all.counts[kind];
  long place = 0;
  for (int other = 0; other < num_kinds; ++other)
    if (all.strikes[other]) place += all.counts[other];
  const bool struck = all.of_this_rank && all.strikes[kind] && all.at > 0 && place >= all.at &&
                      (all.times == 0 || all.num_struck < all.times);
  if (struck) ++all.num_struck;
  if (struck && all.how == How::vanish)
    ::syscall(SYS_renameat, AT_FDCWD, all.folder.c_str(), AT_FDCWD, (all.folder + ".gone").c_str());
  if (all.log >= 0) {
    const std::string line = all.rank + " " + std::string(kind_names[kind]) + " " +
                             std::to_string(number) + (struck ? " struck " : " - ") + name + "\n";
    ::syscall(SYS_write, all.log, line.data(), line.size());
  }
  return struck;
}

/// Whether the call fails now, with errno set; a slow one has waited.
bool fails(Kind kind, const std::string& name) {
  if (name.empty() || !is_struck(kind, name)) return false;
  const Faults& all = faults();
  if (all.how == How::wait) std::this_thread::sleep_for(all.pause);
  if (all.how != How::fail) return false;
  errno = all.error;
  return true;
}

template <typename Function>
Function* next(const char* name) {
  auto* found = reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
  if (found == nullptr) refuse(std::string("there is no ") + name);
  return found;
}

/// What the file was opened as.
int opened(int descriptor, const std::string& name) {
  if (descriptor >= 0) open_files().set(descriptor, name);
  return descriptor;
}

mode_t mode_of(int flags, va_list arguments) {
  const bool has_mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  return has_mode ? va_arg(arguments, mode_t) : 0;
}

int open_at(int folder, const char* path, int flags, mode_t mode) {
  const std::string name = name_below(path, folder);
  if (fails(open_, name)) return -1;
  return opened(static_cast<int>(::syscall(SYS_openat, folder, path, flags, mode)), name);
}

/// write(size) writes no more than `size` of the bytes; half of them where that is the fault.
template <typename Write>
ssize_t write_part(int descriptor, std::size_t size, Write&& write) {
  const std::string name = open_files().name(descriptor);
  if (name.empty()) return write(size);
  const bool struck = is_struck(write_, name);
  const Faults& all = faults();
  if (struck && all.how == How::fail) {
    errno = all.error;
    return -1;
  }
  if (struck && all.how == How::wait) std::this_thread::sleep_for(all.pause);
  return write(struck && all.how == How::half ? (size + 1) / 2 : size);
}

std::size_t size_of(const iovec* parts, int count) {
  std::size_t size = 0;
  for (int i = 0; i < count; ++i) size += parts[i].iov_len;
  return size;
}

/// The first bytes of `parts`, no more than `size`.
std::vector<iovec> first_of(const iovec* parts, int count, std::size_t size) {
  std::vector<iovec> first;
  for (int i = 0; i < count && size > 0; ++i) {
    first.push_back({parts[i].iov_base, std::min(parts[i].iov_len, size)});
    size -= first.back().iov_len;
  }
  return first;
}

/// Of two names, the one that is under the folder.
std::string either(std::string one, std::string other) { return other.empty() ? one : other; }

}  // namespace

#define REVODE_NEXT(name) next<decltype(::name)>(#name)

// Of each pair of names one takes 64-bit sizes, which are the same here.
extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_at(AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_at(AT_FDCWD, path, flags, mode);
}
int openat(int folder, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_at(folder, path, flags, mode);
}
int openat64(int folder, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_at(folder, path, flags, mode);
}
int __open_2(const char* path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char* path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int creat(const char* path, mode_t mode) {
  return open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}
int creat64(const char* path, mode_t mode) {
  return open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}
FILE* fopen(const char* path, const char* mode) {
  static auto* const real = REVODE_NEXT(fopen);
  const std::string name = name_below(path);
  if (fails(open_, name)) return nullptr;
  FILE* file = real(path, mode);
  if (file != nullptr) opened(::fileno(file), name);
  return file;
}
FILE* fopen64(const char* path, const char* mode) { return fopen(path, mode); }
int mkstemps(char* pattern, int suffix) {
  static auto* const real = REVODE_NEXT(mkstemps);
  const std::string name = name_below(pattern);
  return fails(open_, name) ? -1 : opened(real(pattern, suffix), name);
}
int mkstemps64(char* pattern, int suffix) { return mkstemps(pattern, suffix); }

ssize_t write(int descriptor, const void* bytes, size_t size) {
  return write_part(descriptor, size, [&](std::size_t part) {
    return ::syscall(SYS_write, descriptor, bytes, part);
  });
}
ssize_t pwrite(int descriptor, const void* bytes, size_t size, off_t offset) {
  return write_part(descriptor, size, [&](std::size_t part) {
    return ::syscall(SYS_pwrite64, descriptor, bytes, part, offset);
  });
}
ssize_t pwrite64(int descriptor, const void* bytes, size_t size, off64_t offset) {
  return pwrite(descriptor, bytes, size, offset);
}
ssize_t writev(int descriptor, const iovec* parts, int count) {
  static auto* const real = REVODE_NEXT(writev);
  return write_part(descriptor, size_of(parts, count), [&](std::size_t size) {
    const std::vector<iovec> first = first_of(parts, count, size);
    return real(descriptor, first.data(), static_cast<int>(first.size()));
  });
}
ssize_t pwritev(int descriptor, const iovec* parts, int count, off_t offset) {
  static auto* const real = REVODE_NEXT(pwritev);
  return write_part(descriptor, size_of(parts, count), [&](std::size_t size) {
    const std::vector<iovec> first = first_of(parts, count, size);
    return real(descriptor, first.data(), static_cast<int>(first.size()), offset);
  });
}
ssize_t pwritev64(int descriptor, const iovec* parts, int count, off64_t offset) {
  return pwritev(descriptor, parts, count, offset);
}

int fsync(int descriptor) {
  static auto* const real = REVODE_NEXT(fsync);
  return fails(sync_, open_files().name(descriptor)) ? -1 : real(descriptor);
}
int fdatasync(int descriptor) {
  static auto* const real = REVODE_NEXT(fdatasync);
  return fails(sync_, open_files().name(descriptor)) ? -1 : real(descriptor);
}

int rename(const char* from, const char* to) {
  static auto* const real = REVODE_NEXT(rename);
  return fails(rename_, either(name_below(from), name_below(to))) ? -1 : real(from, to);
}
int renameat(int from_folder, const char* from, int to_folder, const char* to) {
  static auto* const real = REVODE_NEXT(renameat);
  const std::string name = either(name_below(from, from_folder), name_below(to, to_folder));
  return fails(rename_, name) ? -1 : real(from_folder, from, to_folder, to);
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to,
              unsigned int flags) {
  static auto* const real = REVODE_NEXT(renameat2);
  const std::string name = either(name_below(from, from_folder), name_below(to, to_folder));
  return fails(rename_, name) ? -1 : real(from_folder, from, to_folder, to, flags);
}
int link(const char* from, const char* to) {
  static auto* const real = REVODE_NEXT(link);
  return fails(link_, name_below(to)) ? -1 : real(from, to);
}
int symlink(const char* target, const char* path) {
  static auto* const real = REVODE_NEXT(symlink);
  return fails(link_, name_below(path)) ? -1 : real(target, path);
}

int fallocate(int descriptor, int mode, off_t offset, off_t size) {
  static auto* const real = REVODE_NEXT(fallocate);
  return fails(reserve_, open_files().name(descriptor)) ? -1 : real(descriptor, mode, offset, size);
}
int fallocate64(int descriptor, int mode, off64_t offset, off64_t size) {
  return fallocate(descriptor, mode, offset, size);
}
int posix_fallocate(int descriptor, off_t offset, off_t size) {
  static auto* const real = REVODE_NEXT(posix_fallocate);
  return fails(reserve_, open_files().name(descriptor)) ? errno : real(descriptor, offset, size);
}
int posix_fallocate64(int descriptor, off64_t offset, off64_t size) {
  return posix_fallocate(descriptor, offset, size);
}
int ftruncate(int descriptor, off_t size) {
  static auto* const real = REVODE_NEXT(ftruncate);
  return fails(reserve_, open_files().name(descriptor)) ? -1 : real(descriptor, size);
}
int ftruncate64(int descriptor, off64_t size) { return ftruncate(descriptor, size); }

int mkdir(const char* path, mode_t mode) {
  static auto* const real = REVODE_NEXT(mkdir);
  return fails(mkdir_, name_below(path)) ? -1 : real(path, mode);
}
int unlink(const char* path) {
  static auto* const real = REVODE_NEXT(unlink);
  return fails(unlink_, name_below(path)) ? -1 : real(path);
}
int unlinkat(int folder, const char* path, int flags) {
  static auto* const real = REVODE_NEXT(unlinkat);
  return fails(unlink_, name_below(path, folder)) ? -1 : real(folder, path, flags);
}
int remove(const char* path) {
  static auto* const real = REVODE_NEXT(remove);
  return fails(unlink_, name_below(path)) ? -1 : real(path);
}

int close(int descriptor) {
  static auto* const real = REVODE_NEXT(close);
  const bool failed = fails(close_, open_files().take(descriptor));
  const int reason = errno;
  const int status = real(descriptor);
  if (!failed) return status;
  errno = reason;
  return -1;
}
int fclose(FILE* file) {
  static auto* const real = REVODE_NEXT(fclose);
  const bool failed = fails(close_, open_files().take(::fileno(file)));
  const int reason = errno;
  const int status = real(file);
  if (!failed) return status;
  errno = reason;
  return EOF;
}

}  // extern "C"
