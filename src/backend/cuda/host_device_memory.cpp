// What a device in host memory does with its memory: pages that are closed, poison, guards, loans.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include <fmt/format.h>
#include <sys/mman.h>

#include "backend/cuda/host_device.hpp"
#include "backend/cuda/host_launch.hpp"

namespace revode::cuda {
namespace {

constexpr std::size_t capacity = std::size_t{64} << 30;  // of addresses, not of memory
constexpr std::size_t page_size = 4096;
constexpr int guard = 0x7f;  // behind the end of an array, to that of its last page; 3.4e38

std::size_t pages_of(std::size_t bytes) { return (bytes + page_size - 1) / page_size * page_size; }

}  // namespace

HostDevice::HostDevice(RunOrder order, std::uint32_t seed, int most_polls)
    : order_(order),
      most_polls_(most_polls),
      random_(seed),
      base_(static_cast<std::byte*>(
          mmap(nullptr, capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
  if (base_ == MAP_FAILED) throw std::bad_alloc();
}

// What nobody waited for is run now; a fault that nobody was told of ends the process.
HostDevice::~HostDevice() {
  try {
    for (int i = 0; i < static_cast<int>(streams_.size()); ++i) run_to(i, streams_[i].num_queued);
    throw_fault();
  } catch (const std::logic_error& error) {
    std::fprintf(stderr, "device in host memory: %s\n", error.what());
    std::abort();
  }
  munmap(base_, capacity);
}

bool HostDevice::owns(const void* pointer) const {
  return base_ <= pointer && pointer < base_ + capacity;
}

void* HostDevice::allocate(std::size_t bytes, Stream stream) {
  refuse_recording(stream, "allocate");
  std::byte* const pointer = base_ + used_;
  // A closed page lies between two arrays.
  used_ += pages_of(bytes) + page_size;
  if (used_ > capacity) throw std::bad_alloc();
  allocations_[pointer] = {bytes, true};
  enqueue(stream, "allocate", Accesses().writes(pointer, bytes), [pointer, bytes] {
    std::memset(pointer, poison, bytes);
    std::memset(pointer + bytes, guard, pages_of(bytes) - bytes);
  });
  return pointer;
}

// An address is given out once: whoever still uses it is found.
void HostDevice::release(void* pointer, std::size_t bytes, Stream stream) noexcept {
  auto* const memory = static_cast<std::byte*>(pointer);
  try {
    refuse_recording(stream, "release");
    enqueue(stream, "release", Accesses().writes(memory, bytes),
            [=] { madvise(memory, pages_of(bytes), MADV_DONTNEED); });
  } catch (const std::logic_error& error) {
    fault_ = error.what();
  }
  allocations_[memory].is_live = false;
}

// Without a stream: it is poisoned at once, and gone at once.
void* HostDevice::allocate_lendable(std::size_t bytes) {
  std::byte* const pointer = base_ + used_;
  used_ += pages_of(bytes) + page_size;
  if (used_ > capacity) throw std::bad_alloc();
  allocations_[pointer] = {.bytes = bytes, .is_live = true, .is_lendable = true};
  const AccessedBytes whole{pointer, bytes, Access::write};
  protect(whole, PROT_READ | PROT_WRITE);
  std::memset(pointer, poison, bytes);
  std::memset(pointer + bytes, guard, pages_of(bytes) - bytes);
  protect(whole, PROT_NONE);
  return pointer;
}

void HostDevice::release_lendable(void* pointer) noexcept {
  auto* const begin = static_cast<std::byte*>(pointer);
  Allocation& allocation = allocations_[begin];
  allocation.is_live = false;
  for (const Touched& touched : touched_)
    if (touched.begin < begin + allocation.bytes && begin < touched.end &&
        !is_known_to_be_done(touched)) {
      fault_ = fmt::format("memory is given back that {} uses", touched.name);
      return;
    }
  madvise(pointer, pages_of(allocation.bytes), MADV_DONTNEED);
}

void HostDevice::lend(void* memory, std::size_t bytes) {
  throw_fault();
  const AccessedBytes lent{memory, bytes, Access::write};
  check(lent, "a message");
  auto& [first, allocation] = *std::prev(allocations_.upper_bound(static_cast<std::byte*>(memory)));
  if (!allocation.is_lendable) throw std::logic_error("a message is given memory of a stream");
  for (const Touched& touched : touched_)
    if (touched.begin < first + allocation.bytes && first < touched.end &&
        !is_known_to_be_done(touched))
      throw std::logic_error(fmt::format("nothing orders {} on stream {} and a message",
                                         touched.name, touched.stream));
  ++allocation.num_loans;
  protect(lent, PROT_READ | PROT_WRITE);
}

void HostDevice::take_back(void* memory, std::size_t bytes) noexcept {
  --std::prev(allocations_.upper_bound(static_cast<std::byte*>(memory)))->second.num_loans;
  protect({memory, bytes, Access::write}, PROT_NONE);
}

void* HostDevice::allocate_host(std::size_t bytes) {
  return std::memset(::operator new(bytes, std::align_val_t(page_size)), 0, bytes);
}

void HostDevice::release_host(void* pointer) noexcept {
  ::operator delete(pointer, std::align_val_t(page_size));
}

/// Inside one array that is there.
void HostDevice::check(const AccessedBytes& accessed, const std::string& name) const {
  const auto* const begin = static_cast<const std::byte*>(accessed.begin);
  if (!owns(begin)) {
    const bool is_copy = name == (accessed.access == Access::read ? "copy in" : "copy out");
    if (is_copy) return;
    throw std::logic_error(fmt::format("{} is given memory of the host", name));
  }
  const auto behind = allocations_.upper_bound(begin);
  if (behind != allocations_.begin()) {
    const auto& [first, allocation] = *std::prev(behind);
    if (end_of(accessed) <= first + allocation.bytes) {
      if (allocation.num_loans > 0)
        throw std::logic_error(fmt::format("{} touches memory that a message has", name));
      if (allocation.is_live) return;
      throw std::logic_error(fmt::format("{} uses memory that was given back", name));
    }
  }
  throw std::logic_error(fmt::format("{} goes beyond its array: {} bytes from {}", name,
                                     accessed.bytes, static_cast<const void*>(begin)));
}

void HostDevice::protect(const AccessedBytes& accessed, int protection) {
  if (!owns(accessed.begin)) return;
  const auto offset =
      static_cast<std::size_t>(static_cast<const std::byte*>(accessed.begin) - base_);
  const std::size_t first = offset / page_size * page_size;
  if (mprotect(base_ + first, pages_of(offset + accessed.bytes) - first, protection) != 0)
    throw std::runtime_error("mprotect failed");
}

/// Opens what the operation said that it touches, or closes it again.
void HostDevice::protect(const Operation& operation, bool is_open) {
  // Pages that are also written are opened last.
  for (const AccessedBytes& accessed : operation.accesses)
    if (accessed.access == Access::read || !is_open)
      protect(accessed, is_open ? PROT_READ : PROT_NONE);
  if (!is_open) return;
  for (const AccessedBytes& accessed : operation.accesses)
    if (accessed.access != Access::read) protect(accessed, PROT_READ | PROT_WRITE);
}

/// No operation wrote behind an array that it said to write to.
void HostDevice::check_guards(const Operation& operation) const {
  for (const AccessedBytes& accessed : operation.accesses) {
    if (!owns(accessed.begin) || accessed.access == Access::read || operation.name == "release")
      continue;
    const auto& [first, allocation] =
        *std::prev(allocations_.upper_bound(static_cast<const std::byte*>(accessed.begin)));
    const std::byte* const end = first + allocation.bytes;
    const std::byte* const end_of_page = first + pages_of(allocation.bytes);
    // The guard lies in the array's last page, which was open if the access ends in it.
    const auto page_of = [&](const std::byte* byte) { return (byte - base_) / page_size; };
    if (page_of(end_of(accessed) - 1) != page_of(end - 1)) continue;
    if (!std::all_of(end, end_of_page,
                     [](std::byte value) { return value == static_cast<std::byte>(guard); }))
      throw std::logic_error(fmt::format("{} wrote behind the end of an array", operation.name));
  }
}

}  // namespace revode::cuda
