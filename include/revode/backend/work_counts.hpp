// What a backend has given a device to do.
#pragma once

#include <cstdint>

namespace revode {

/// Work is a kernel, a convolution, a fill or a copy within the device.
struct WorkCounts {
  std::int64_t launched = 0;     ///< one by one
  std::int64_t replayed = 0;     ///< in graphs, recorded before
  std::int64_t num_replays = 0;  ///< of graphs
  std::int64_t num_graphs = 0;   ///< that there are now
  std::int64_t num_waits = 0;    ///< of the host, for work that it did not know to be done
  std::int64_t num_fetches = 0;  ///< copies to the host

  /// What came since `before`.
  WorkCounts since(const WorkCounts& before) const {
    return {.launched = launched - before.launched,
            .replayed = replayed - before.replayed,
            .num_replays = num_replays - before.num_replays,
            .num_graphs = num_graphs,
            .num_waits = num_waits - before.num_waits,
            .num_fetches = num_fetches - before.num_fetches};
  }
};

}  // namespace revode
