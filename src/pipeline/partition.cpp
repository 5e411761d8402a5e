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

/// Where slice after slice ends when each takes as many blocks as `bound` allows and leaves one for
/// each slice to come: ends[s] behind s slices. Shorter than num_slices + 1 where a block does not
/// fit.
std::vector<int> latest_ends(const RunCosts& cost, int num_slices, std::int64_t bound) {
  std::vector<int> ends{0};
  for (int slice = 0; slice < num_slices; ++slice) {
    const int first = ends.back(), most = cost.num_blocks() - (num_slices - 1 - slice);
    int last = first + 1;
    if (cost(first, last) > bound) break;
    while (last < most && cost(first, last + 1) <= bound) ++last;
    ends.push_back(last);
  }
  return ends;
}

/// The same from the other end: starts[s] is the first block that the slices from s on can reach
/// back to. The bound fits.
std::vector<int> earliest_starts(const RunCosts& cost, int num_slices, std::int64_t bound) {
  std::vector<int> starts(num_slices + 1, cost.num_blocks());
  for (int slice = num_slices - 1; slice >= 0; --slice) {
    const int last = starts[slice + 1];
    int first = last - 1;
    while (first > slice && cost(first - 1, last) <= bound) --first;
    starts[slice] = first;
  }
  return starts;
}

/// Whether num_slices slices of at most `bound` each are enough, every one with a block.
bool fits(const RunCosts& cost, int num_slices, std::int64_t bound) {
  const std::vector<int> ends = latest_ends(cost, num_slices, bound);
  return ends.size() == num_slices + std::size_t{1} && ends.back() == cost.num_blocks();
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

/// Where a slice may end, and for each of these ends the least sum of squares up to there and where
/// the slice then begins.
struct Ends {
  int first = 0;
  std::vector<double> least;
  std::vector<int> begin;

  int last() const { return first + static_cast<int>(least.size()) - 1; }
};

/// Fills after.least and after.begin for the ends [low, high], whose slices begin in
/// [low_begin, high_begin]. Squares of sums are Monge: the best begin never moves back as the end
/// moves on, so the middle end halves the question.
void fill_ends(const RunCosts& cost, std::int64_t bound, const Ends& before, Ends& after, int low,
               int high, int low_begin, int high_begin) {
  if (low > high) return;
  const int end = low + (high - low) / 2;
  double least = std::numeric_limits<double>::infinity();
  int best = low_begin;
  for (int begin = std::min(high_begin, end - 1); begin >= low_begin && cost(begin, end) <= bound;
       --begin) {
    const auto c = static_cast<double>(cost(begin, end));
    const double sum = before.least[begin - before.first] + c * c;
    if (sum < least) {
      least = sum;
      best = begin;
    }
  }
  after.least[end - after.first] = least;
  after.begin[end - after.first] = best;
  fill_ends(cost, bound, before, after, low, end - 1, low_begin, best);
  fill_ends(cost, bound, before, after, end + 1, high, best, high_begin);
}

}  // namespace

// The ends of slice s that the bound allows lie side by side: as far as s slices reach from the
// left, and as far as the others reach back from the right. Mostly that is a few blocks.
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
  const std::vector<int> earliest = earliest_starts(cost, num_slices, bound);
  const std::vector<int> latest = latest_ends(cost, num_slices, bound);
  std::vector<Ends> ends{{.first = 0, .least = {0}, .begin = {0}}};
  for (int s = 1; s <= num_slices; ++s) {
    const std::size_t number = latest[s] - earliest[s] + 1;
    ends.push_back({earliest[s], std::vector<double>(number), std::vector<int>(number)});
    fill_ends(cost, bound, ends[s - 1], ends[s], ends[s].first, ends[s].last(), ends[s - 1].first,
              ends[s - 1].last());
    ends[s - 1].least = {};
  }
  std::vector<BlockRange> slices(num_slices);
  for (int s = num_slices, n = num_blocks; s >= 1; --s) {
    const int begin = ends[s].begin[n - ends[s].first];
    slices[s - 1] = {begin, n};
    n = begin;
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

std::vector<int> cut_evenly(int count, int num_parts) {
  const int parts = std::min(num_parts, count);
  std::vector<int> sizes(parts, count / parts);
  for (int part = 0; part < count % parts; ++part) ++sizes[part];
  return sizes;
}

}  // namespace revode
