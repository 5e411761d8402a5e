#include "revode/core/buffer.hpp"

#include <atomic>

namespace revode {

struct MemoryCounters {
  struct Counter {
    std::atomic<std::int64_t> current{0};
    std::atomic<std::int64_t> peak{0};
  };
  using ByCategory = std::array<Counter, num_memory_categories>;
  Counter& of(Memory category, const MemorySpace& space) {
    return (space.host_accessible() ? host : device)[static_cast<int>(category)];
  }

  ByCategory host, device;
};

namespace {

MemoryCounters*& counters_in_use() {
  static MemoryCounters own;
  static MemoryCounters* in_use = &own;
  return in_use;
}

MemoryUse use_of(const MemoryCounters::ByCategory& counters) {
  MemoryUse use;
  for (int i = 0; i < num_memory_categories; ++i) {
    use.current_bytes[i] = counters[i].current.load();
    use.peak_bytes[i] = counters[i].peak.load();
  }
  return use;
}

}  // namespace

MemoryCounters& memory_counters() { return *counters_in_use(); }
void count_memory_in(MemoryCounters& counters) { counters_in_use() = &counters; }

std::string_view to_string(Memory category) {
  constexpr std::array<std::string_view, num_memory_categories> names{
      "weights",   "gradients", "momentum", "packed weights", "state", "stash",
      "workspace", "snapshot",  "data"};
  return names[static_cast<int>(category)];
}

MemoryUse memory_use() { return use_of(memory_counters().host); }
MemoryUse device_memory_use() { return use_of(memory_counters().device); }

namespace detail {

void* allocate(std::size_t bytes, Memory category, MemorySpace& space) {
  void* pointer = space.allocate(bytes);
  MemoryCounters::Counter& counter = memory_counters().of(category, space);
  const std::int64_t now = counter.current += static_cast<std::int64_t>(bytes);
  std::int64_t peak = counter.peak.load();
  while (now > peak && !counter.peak.compare_exchange_weak(peak, now)) {
  }
  return pointer;
}

void release(void* pointer, std::size_t bytes, Memory category, MemorySpace& space) noexcept {
  memory_counters().of(category, space).current -= static_cast<std::int64_t>(bytes);
  space.release(pointer, bytes);
}

}  // namespace detail
}  // namespace revode
