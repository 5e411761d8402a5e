// Cuts the blocks of the network into one contiguous time slice a rank. Pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "revode/model/architecture.hpp"

namespace revode {

/// The cut of costs.size() >= num_slices blocks into non-empty contiguous slices whose largest cost
/// is least, and among those one whose sum of squared costs is least (so that no slice is left
/// needlessly idle). first_extra counts on the first slice (the opening), last_extra on the last
/// (the closing). Throws an input error when there are more slices than blocks, naming the largest
/// number that works.
std::vector<BlockRange> partition(const std::vector<std::int64_t>& costs, std::int64_t first_extra,
                                  std::int64_t last_extra, int num_slices);

/// The same for a network, its costs in multiply-adds of a training step.
std::vector<BlockRange> partition(const Architecture& architecture, int num_slices);

/// Multiply-adds of one image's training step in a slice, opening and closing included.
std::int64_t slice_cost(const Architecture& architecture, BlockRange range);

/// Sizes of num_parts parts of `count` things, fewer where there are not as many: they differ by at
/// most one, larger first.
std::vector<int> cut_evenly(int count, int num_parts);

}  // namespace revode
