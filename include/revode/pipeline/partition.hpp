// Cuts the blocks of the network into contiguous time slices. Pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "revode/model/architecture.hpp"
#include "revode/pipeline/layer_costs.hpp"
#include "revode/pipeline/placement.hpp"

namespace revode {

/// What blocks would cost in one slice: `first_extra` counts where it begins the network (the
/// opening), `last_extra` where it ends it (the closing), entries[b] where block b is its first
/// (at most entries[b - 1] + blocks[b - 1]; empty: nothing).
struct BlockCosts {
  std::vector<std::int64_t> blocks;
  std::int64_t first_extra = 0;
  std::int64_t last_extra = 0;
  std::vector<std::int64_t> entries = {};
};

/// The cut of the blocks into non-empty contiguous slices whose largest cost is least, and among
/// those one whose sum of squared costs is least (so that no slice is left needlessly idle). The
/// blocks cost costs[of_slice[s]] in slice s, as ranks may be of unequal speed. There are at most
/// as many slices as blocks.
std::vector<BlockRange> partition(const std::vector<BlockCosts>& costs,
                                  const std::vector<int>& of_slice);

/// The same for a network. costs: of each rank, or one for all. Where ranks have several slices,
/// blocks then move between neighbours as long as the rank that has most gets less; no slice
/// becomes more than `unevenness` times as large as the largest was. Throws an input error when
/// there are more slices than blocks, naming the largest number that works.
std::vector<BlockRange> partition(const Architecture& architecture, const Placement& placement,
                                  const std::vector<LayerCosts>& costs, double unevenness = 1);
/// One slice a rank, by multiply-adds.
std::vector<BlockRange> partition(const Architecture& architecture, int num_ranks);

/// Sizes of num_parts parts of `count` things, fewer where there are not as many: they differ by at
/// most one, larger first.
std::vector<int> cut_evenly(int count, int num_parts);

}  // namespace revode
