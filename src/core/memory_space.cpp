#include "revode/core/memory_space.hpp"

#include <cstring>
#include <new>

#include <sys/mman.h>

namespace revode {
namespace {

/// Arrays of at least one large page ask for such: kernels walk over many places of an array at
/// once, more than there are entries for small pages in a TLB.
constexpr std::size_t large_page = std::size_t{2} << 20;

std::align_val_t alignment_of(std::size_t bytes) {
  return std::align_val_t{bytes < large_page ? 64 : large_page};
}

class HostMemory final : public MemorySpace {
 public:
  std::string_view name() const override { return "host"; }
  bool host_accessible() const override { return true; }

  void* allocate(std::size_t bytes) override {
    void* pointer = ::operator new(bytes, alignment_of(bytes));
    // Advice alone: what the system makes of it changes no result.
    if (bytes >= large_page) madvise(pointer, bytes / large_page * large_page, MADV_HUGEPAGE);
    std::memset(pointer, 0, bytes);
    return pointer;
  }

  void release(void* pointer, std::size_t bytes) noexcept override {
    ::operator delete(pointer, alignment_of(bytes));
  }
};

}  // namespace

MemorySpace& host_memory() {
  static HostMemory instance;
  return instance;
}

}  // namespace revode
