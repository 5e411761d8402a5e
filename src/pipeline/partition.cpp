#include "revode/pipeline/partition.hpp"

#include <algorithm>
#include <limits>

#include "revode/core/error.hpp"

namespace revode {
namespace {

/// Costs of runs of blocks with the ends' extras, in constant time.
class RunCosts {
 public:
  RunCosts(const std::vector<std::int64_t>& costs, std::int64_t first_extra,
           std::int64_t last_extra)
      : sums_(costs.size() + 1, 0), first_extra_(first_extra), last_extra_(last_extra) {
    for (std::size_t i = 0; i < costs.size(); ++i) sums_[i + 1] = sums_[i] + costs[i];
  }
  int num_blocks() const { return static_cast<int>(sums_.size()) - 1; }
  std::int64_t operator()(int first, int last) const {
    return sums_[last] - sums_[first] + (first == 0 ? first_extra_ : 0) +
           (last == num_blocks() ? last_extra_ : 0);
  }

 private:
  std::vector<std::int64_t> sums_;
  std::int64_t first_extra_, last_extra_;
};

/// Whether num_slices slices of at most `bound` each are enough, every one with a block.
bool fits(const RunCosts& cost, int num_slices, std::int64_t bound) {
  int first = 0;
  for (int slice = 0; slice < num_slices; ++slice) {
    const int most =
        cost.num_blocks() - (num_slices - 1 - slice);  // leave one block for each slice to come
    int last = first + 1;
    if (cost(first, last) > bound) return false;
    while (last < most && cost(first, last + 1) <= bound) ++last;
    first = last;
  }
  return first == cost.num_blocks();
}

/// The least bound that fits.
std::int64_t least_bound(const RunCosts& cost, int num_slices) {
  std::int64_t low = 0, high = cost(0, cost.num_blocks());
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (fits(cost, num_slices, middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace

// least[s][n]: the least sum of squares of the first n blocks in s slices, none above the bound.
std::vector<BlockRange> partition(const std::vector<std::int64_t>& costs, std::int64_t first_extra,
                                  std::int64_t last_extra, int num_slices) {
  const int num_blocks = static_cast<int>(costs.size());
  REVODE_REQUIRE(num_slices >= 1, "--time-ranks {}: at least one is needed", num_slices);
  REVODE_REQUIRE(num_slices <= num_blocks,
                 "{} time ranks are too many: the network has {} blocks and every rank needs one; "
                 "start at most {} ranks",
                 num_slices, num_blocks, num_blocks);
  const RunCosts cost(costs, first_extra, last_extra);
  const std::int64_t bound = least_bound(cost, num_slices);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> least(num_slices + 1,
                                         std::vector<double>(num_blocks + 1, infinity));
  std::vector<std::vector<int>> cut(num_slices + 1, std::vector<int>(num_blocks + 1, 0));
  least[0][0] = 0;
  for (int s = 1; s <= num_slices; ++s) {
    for (int n = s; n <= num_blocks - (num_slices - s); ++n) {
      for (int first = n - 1; first >= s - 1 && cost(first, n) <= bound; --first) {
        const auto c = static_cast<double>(cost(first, n));
        const double sum = least[s - 1][first] + c * c;
        if (sum < least[s][n]) {
          least[s][n] = sum;
          cut[s][n] = first;
        }
      }
    }
  }
  std::vector<BlockRange> slices(num_slices);
  for (int s = num_slices, n = num_blocks; s >= 1; --s) {
    slices[s - 1] = {cut[s][n], n};
    n = cut[s][n];
  }
  return slices;
}

std::vector<BlockRange> partition(const Architecture& architecture, int num_slices) {
  std::vector<std::int64_t> costs(architecture.num_blocks());
  for (int block = 0; block < architecture.num_blocks(); ++block)
    costs[block] = architecture.block_cost(block);
  return partition(costs, architecture.opening_cost(), architecture.closing_cost(), num_slices);
}

std::int64_t slice_cost(const Architecture& architecture, BlockRange range) {
  std::int64_t cost = 0;
  for (int block = range.first; block < range.last; ++block) cost += architecture.block_cost(block);
  if (range.first == 0) cost += architecture.opening_cost();
  if (range.last == architecture.num_blocks()) cost += architecture.closing_cost();
  return cost;
}

std::vector<int> cut_mini_batch(int mini_batch, int num_micro_batches) {
  const int count = std::min(num_micro_batches, mini_batch);
  std::vector<int> sizes(count, mini_batch / count);
  for (int m = 0; m < mini_batch % count; ++m) ++sizes[m];
  return sizes;
}

}  // namespace revode
