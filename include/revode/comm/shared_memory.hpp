// Memory that the ranks of a host share, so that an array can change hands between them where else
// it would be copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "revode/comm/communicator.hpp"
#include "revode/core/memory_space.hpp"

namespace revode {

/// Each rank makes arrays, and sees those of the ranks that run on its host once they are
/// published. As arrays change hands none is freed alone; all are with this object. Where the
/// system does not let processes share memory, arrays are of this rank alone.
class SharedMemory final : public MemorySpace {
 public:
  /// Of the ranks of `communicator`, which must outlive it. Collective.
  explicit SharedMemory(const Communicator& communicator);
  ~SharedMemory() override;
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::string_view name() const override { return "host, shared"; }
  bool host_accessible() const override { return true; }
  void* allocate(std::size_t bytes) override;
  void release(void*, std::size_t) noexcept override {}

  /// Lets the others see the arrays that were made until now. Collective.
  void publish();
  /// Whether this rank and another one, `rank`, have arrays and see all that the other published.
  bool shares_with(int rank) const { return shares_with_[rank]; }

  /// Of a published array, the same on every rank that sees it. array: its begin here.
  std::int64_t name_of(const void* array) const { return names_.at(array); }
  /// The begin of an array here.
  void* find(std::int64_t name) const;

 private:
  struct Array {
    void* begin;
    std::size_t bytes;
    int file;  // that holds it, until it is published; else -1
  };

  const Communicator& communicator_;
  std::vector<bool> is_on_host_, shares_with_;
  std::vector<std::vector<Array>> arrays_;  // by owner
  std::map<const void*, std::int64_t> names_;
};

}  // namespace revode
