// The body of a kernel as a device would run it, on the host: every item, or every phase of every
// thread, one after the other, forwards or backwards.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include <fmt/format.h>

#include "backend/cuda/kernel.hpp"

namespace revode::cuda {

/// Every byte of memory that nothing was written to; NaN, as a number.
inline constexpr int poison = 0xff;

template <typename Body>
constexpr bool is_elementwise = requires(const Body& body) {
  body.size();
};

template <typename Body>
constexpr bool is_in_clusters = requires {
  typename Body::Registers;
};

/// Each phase by all threads of a block, block after block as far as they go without meeting. A
/// guard lies behind the memory of each block.
template <typename Body, typename ForEach>
void run_clusters(const Body& body, ForEach&& for_each) {
  static_assert(std::is_trivially_copyable_v<typename Body::Registers>);
  const int cluster_size = body.cluster_size(), num_threads = body.num_threads();
  const std::size_t fours = body.shared_fours();
  std::vector<Four> memory(cluster_size * (fours + 1));
  std::vector<Four*> blocks(cluster_size);
  std::vector<typename Body::Registers> registers(std::size_t{1} * cluster_size * num_threads);
  for (std::int64_t cluster = 0; cluster < body.num_clusters(); ++cluster) {
    std::memset(memory.data(), poison, memory.size() * sizeof(Four));
    std::memset(static_cast<void*>(registers.data()), poison,
                registers.size() * sizeof(typename Body::Registers));
    for (int block = 0; block < cluster_size; ++block)
      blocks[block] = memory.data() + block * (fours + 1);
    for (int first = 0, last = 0; first < body.num_phases(); first = ++last) {
      while (!body.meets_cluster(last)) ++last;
      for_each(cluster_size, [&](std::int64_t block) {
        const ClusterShared shared{blocks[block], static_cast<int>(block), blocks.data()};
        for (int phase = first; phase <= last; ++phase)
          for_each(num_threads, [&](std::int64_t thread) {
            body(phase, cluster, static_cast<int>(thread), shared,
                 registers[block * num_threads + thread]);
          });
      });
    }
    for (int block = 0; block < cluster_size; ++block) {
      const auto* const guarded = reinterpret_cast<const unsigned char*>(blocks[block] + fours);
      if (!std::all_of(guarded, guarded + sizeof(Four), [](int byte) { return byte == poison; }))
        throw std::logic_error(fmt::format("{} wrote behind its shared memory", body.name));
    }
  }
}

/// As a device would: every item, or every phase of every block's threads, in whatever order.
template <typename Body>
void run_body(const Body& body, bool backwards) {
  const auto for_each = [&](std::int64_t count, auto&& run) {
    for (std::int64_t i = 0; i < count; ++i) run(backwards ? count - 1 - i : i);
  };
  if constexpr (is_elementwise<Body>) {
    for_each(body.size(), body);
  } else if constexpr (is_in_clusters<Body>) {
    run_clusters(body, for_each);
  } else {
    typename Body::Shared shared;
    static_assert(std::is_trivially_copyable_v<typename Body::Shared>);
    for (std::int64_t block = 0; block < body.num_blocks(); ++block) {
      std::memset(&shared, poison, sizeof shared);
      for (int phase = 0; phase < Body::num_phases; ++phase)
        for_each(Body::num_threads, [&](std::int64_t thread) {
          body(phase, block, static_cast<int>(thread), shared);
        });
    }
  }
}

}  // namespace revode::cuda
