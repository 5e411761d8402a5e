#include "revode/comm/shared_memory.hpp"

#include <algorithm>
#include <new>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "revode/core/resident_memory.hpp"

namespace revode {
namespace {

/// More than a rank ever has.
constexpr std::int64_t arrays_a_rank = std::int64_t{1} << 32;

std::int64_t name_of_array(int owner, std::size_t number) {
  return owner * arrays_a_rank + static_cast<std::int64_t>(number);
}

/// What a rank tells the others of an array: its process and the file there that holds the array,
/// and what that file is, so that no other one is taken for it.
struct Notice {
  std::int64_t process, file, device, inode, bytes;

  static constexpr std::size_t num_values = 5;
  void append_to(std::vector<std::int64_t>& values) const {
    values.insert(values.end(), {process, file, device, inode, bytes});
  }
  static Notice at(const std::int64_t* values) {
    return {values[0], values[1], values[2], values[3], values[4]};
  }
};

Notice notice_of(int file, std::size_t bytes) {
  struct stat status {};
  if (file >= 0 && fstat(file, &status) != 0) file = -1;
  return {getpid(), file, static_cast<std::int64_t>(status.st_dev),
          static_cast<std::int64_t>(status.st_ino), static_cast<std::int64_t>(bytes)};
}

/// Null where the system refuses. file: -1 for memory of this process alone.
void* map(int file, std::size_t bytes) {
  const int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* begin = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, file, 0);
  return begin == MAP_FAILED ? nullptr : begin;
}

/// Another process's array in this one's memory; null where the system refuses, or where that
/// process's number means another one here, as between containers.
void* map(const Notice& array) {
  const int file =
      open(fmt::format("/proc/{}/fd/{}", array.process, array.file).c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return nullptr;
  const Notice found = notice_of(file, array.bytes);
  const bool is_meant = found.device == array.device && found.inode == array.inode;
  void* begin = is_meant ? map(file, array.bytes) : nullptr;
  close(file);
  return begin;
}

}  // namespace

SharedMemory::SharedMemory(const Communicator& communicator)
    : communicator_(communicator),
      is_on_host_(communicator.size()),
      shares_with_(communicator.size()),
      arrays_(communicator.size()) {
  for (const int rank : communicator.ranks_of_host()) is_on_host_[rank] = true;
}

SharedMemory::~SharedMemory() {
  for (const std::vector<Array>& arrays : arrays_) {
    for (const Array& array : arrays) {
      if (array.begin != nullptr) munmap(array.begin, array.bytes);
      if (array.file >= 0) close(array.file);
    }
  }
}

void* SharedMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  int file = memfd_create(shared_memory_name, MFD_CLOEXEC);
  if (file >= 0 && ftruncate(file, static_cast<off_t>(bytes)) != 0) {
    close(file);
    file = -1;
  }
  void* begin = map(file, bytes);
  if (begin == nullptr) {
    if (file >= 0) close(file);
    throw std::bad_alloc();
  }
  std::vector<Array>& own = arrays_[communicator_.rank()];
  names_[begin] = name_of_array(communicator_.rank(), own.size());
  own.push_back({begin, bytes, file});
  return begin;
}

void SharedMemory::publish() {
  const int me = communicator_.rank();
  std::vector<std::int64_t> mine;
  for (const Array& array : arrays_[me]) notice_of(array.file, array.bytes).append_to(mine);
  const std::vector<std::vector<std::int64_t>> all = communicator_.all_gather_each(mine);

  std::vector<std::int64_t> sees(communicator_.size());
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    if (rank == me || !is_on_host_[rank]) continue;
    std::vector<Array>& theirs = arrays_[rank];
    for (std::size_t i = Notice::num_values * theirs.size(); i < all[rank].size();
         i += Notice::num_values) {
      const Notice notice = Notice::at(&all[rank][i]);
      void* begin = map(notice);
      names_[begin] = name_of_array(rank, theirs.size());
      theirs.push_back({begin, static_cast<std::size_t>(notice.bytes), -1});
    }
    const auto is_seen = [](const Array& array) { return array.begin != nullptr; };
    sees[rank] = !theirs.empty() && std::ranges::all_of(theirs, is_seen);
  }
  const std::vector<std::vector<std::int64_t>> seen_by = communicator_.all_gather_each(sees);
  for (int rank = 0; rank < communicator_.size(); ++rank)
    shares_with_[rank] = sees[rank] != 0 && seen_by[rank][me] != 0;

  for (Array& array : arrays_[me]) {  // all who can have it, have it
    if (array.file >= 0) close(array.file);
    array.file = -1;
  }
}

void* SharedMemory::find(std::int64_t name) const {
  return arrays_[name / arrays_a_rank][name % arrays_a_rank].begin;
}

}  // namespace revode
