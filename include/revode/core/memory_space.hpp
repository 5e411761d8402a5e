// Where arrays live: in the host's memory, or in that of a device.
#pragma once

#include <cstddef>
#include <string_view>

namespace revode {

class MemorySpace {
 public:
  virtual ~MemorySpace() = default;

  virtual std::string_view name() const = 0;
  /// Whether the host may read and write it through pointers.
  virtual bool host_accessible() const = 0;
  /// Zeroed, aligned to 64 bytes. Throws std::bad_alloc.
  virtual void* allocate(std::size_t bytes) = 0;
  /// May be called while calls of a backend that use the memory are under way: it ends behind them.
  virtual void release(void* pointer, std::size_t bytes) noexcept = 0;
};

/// Lives as long as the program.
MemorySpace& host_memory();

}  // namespace revode
