#include "revode/pipeline/partition.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "revode/core/error.hpp"

namespace revode {
namespace {

/// Costs of runs of blocks in a slice, in constant time.
class RunCosts {
 public:
  RunCosts(const std::vector<BlockCosts>& costs, const std::vector<int>& of_slice)
      : of_slice_(of_slice) {
    for (const BlockCosts& some : costs) {
      Sums& sums = sums_.emplace_back(Sums{{0}, some.entries, some.first_extra, some.last_extra});
      for (const std::int64_t cost : some.blocks) sums.blocks.push_back(sums.blocks.back() + cost);
      sums.entries.resize(some.blocks.size());
    }
  }
  int num_slices() const { return static_cast<int>(of_slice_.size()); }
  int num_blocks() const { return static_cast<int>(sums_.front().blocks.size()) - 1; }
  std::int64_t operator()(int slice, int first, int last) const {
    const Sums& sums = sums_[of_slice_[slice]];
    return sums.entries[first] + sums.blocks[last] - sums.blocks[first] +
           (first == 0 ? sums.first_extra : 0) + (last == num_blocks() ? sums.last_extra : 0);
  }
  /// Where it costs most.
  std::int64_t of_all_blocks() const {
    std::int64_t most = 0;
    for (int slice = 0; slice < num_slices(); ++slice)
      most = std::max(most, (*this)(slice, 0, num_blocks()));
    return most;
  }

 private:
  struct Sums {
    std::vector<std::int64_t> blocks;  // of those before each
    std::vector<std::int64_t> entries;
    std::int64_t first_extra, last_extra;
  };
  std::vector<Sums> sums_;
  const std::vector<int>& of_slice_;
};

/// Where slice after slice ends when each takes as many blocks as `bound` allows and leaves one for
/// each slice to come: ends[s] behind s slices. Shorter than num_slices + 1 where a block does not
/// fit.
std::vector<int> latest_ends(const RunCosts& cost, std::int64_t bound) {
  const int num_slices = cost.num_slices();
  std::vector<int> ends{0};
  for (int slice = 0; slice < num_slices; ++slice) {
    const int first = ends.back(), most = cost.num_blocks() - (num_slices - 1 - slice);
    int last = first + 1;
    if (cost(slice, first, last) > bound) break;
    while (last < most && cost(slice, first, last + 1) <= bound) ++last;
    ends.push_back(last);
  }
  return ends;
}

/// The same from the other end: starts[s] is the first block that the slices from s on can reach
/// back to. The bound fits.
std::vector<int> earliest_starts(const RunCosts& cost, std::int64_t bound) {
  const int num_slices = cost.num_slices();
  std::vector<int> starts(num_slices + 1, cost.num_blocks());
  for (int slice = num_slices - 1; slice >= 0; --slice) {
    const int last = starts[slice + 1];
    int first = last - 1;
    while (first > slice && cost(slice, first - 1, last) <= bound) --first;
    starts[slice] = first;
  }
  return starts;
}

/// Whether slices of at most `bound` each are enough, every one with a block.
bool fits(const RunCosts& cost, std::int64_t bound) {
  const std::vector<int> ends = latest_ends(cost, bound);
  return ends.size() == cost.num_slices() + std::size_t{1} && ends.back() == cost.num_blocks();
}

/// The least bound that fits.
std::int64_t least_bound(const RunCosts& cost) {
  std::int64_t low = 0, high = cost.of_all_blocks();
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (fits(cost, middle)) {
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

/// Fills after.least and after.begin of a slice for the ends [low, high], which begin in
/// [low_begin, high_begin]. Squares of sums are Monge: the best begin never moves back as the end
/// moves on, so the middle end halves the question.
void fill_ends(const RunCosts& cost, int slice, std::int64_t bound, const Ends& before, Ends& after,
               int low, int high, int low_begin, int high_begin) {
  if (low > high) return;
  const int end = low + (high - low) / 2;
  double least = std::numeric_limits<double>::infinity();
  int best = low_begin;
  for (int begin = std::min(high_begin, end - 1);
       begin >= low_begin && cost(slice, begin, end) <= bound; --begin) {
    const auto c = static_cast<double>(cost(slice, begin, end));
    const double sum = before.least[begin - before.first] + c * c;
    if (sum < least) {
      least = sum;
      best = begin;
    }
  }
  after.least[end - after.first] = least;
  after.begin[end - after.first] = best;
  fill_ends(cost, slice, bound, before, after, low, end - 1, low_begin, best);
  fill_ends(cost, slice, bound, before, after, end + 1, high, best, high_begin);
}

}  // namespace

// The ends of slice s that the bound allows lie side by side: as far as s slices reach from the
// left, and as far as the others reach back from the right. Mostly that is a few blocks.
std::vector<BlockRange> partition(const std::vector<BlockCosts>& costs,
                                  const std::vector<int>& of_slice) {
  const RunCosts cost(costs, of_slice);
  const int num_slices = cost.num_slices();
  const std::int64_t bound = least_bound(cost);
  const std::vector<int> earliest = earliest_starts(cost, bound);
  const std::vector<int> latest = latest_ends(cost, bound);
  std::vector<Ends> ends{{.first = 0, .least = {0}, .begin = {0}}};
  for (int s = 1; s <= num_slices; ++s) {
    const std::size_t number = latest[s] - earliest[s] + 1;
    ends.push_back({earliest[s], std::vector<double>(number), std::vector<int>(number)});
    fill_ends(cost, s - 1, bound, ends[s - 1], ends[s], ends[s].first, ends[s].last(),
              ends[s - 1].first, ends[s - 1].last());
    ends[s - 1].least = {};
  }
  std::vector<BlockRange> slices(num_slices);
  for (int s = num_slices, n = cost.num_blocks(); s >= 1; --s) {
    const int begin = ends[s].begin[n - ends[s].first];
    slices[s - 1] = {begin, n};
    n = begin;
  }
  return slices;
}

namespace {

/// A cut whose ranks have several slices: slices of equal cost are not yet ranks of equal cost.
class RankBalance {
 public:
  RankBalance(const RunCosts& cost, const Placement& placement, double unevenness,
              std::vector<BlockRange>& slices)
      : cost_(cost), placement_(placement), slices_(slices), totals_(placement.num_ranks()) {
    std::int64_t most = 0;
    for (int slice = 0; slice < placement.num_slices(); ++slice) {
      add(slice, totals_, 1);
      most = std::max(most, cost_of(slice));
    }
    most_of_slice_ = unevenness * static_cast<double>(most);
  }

  /// Moves one end of a slice by a block, or two ends where one does not help, as long as the rank
  /// that has most gets less.
  void improve() {
    while (try_moves(1) || (placement_.num_slices() <= most_slices_for_pairs && try_moves(2))) {
    }
  }

 private:
  using Totals = std::vector<std::int64_t>;  // by rank
  /// The end of a slice moves by `blocks`.
  struct Move {
    int slice;
    int blocks;
  };
  /// Of pairs there are as many as the square of this.
  static constexpr int most_slices_for_pairs = 128;

  std::int64_t cost_of(int slice) const {
    return cost_(slice, slices_[slice].first, slices_[slice].last);
  }
  void add(int slice, Totals& totals, int sign) const {
    totals[placement_.rank_of(slice)] += sign * cost_of(slice);
  }
  bool is_allowed(int slice) const {
    return slices_[slice].first < slices_[slice].last &&
           static_cast<double>(cost_of(slice)) <= most_of_slice_;
  }
  void apply(const Move& move, int sign) {
    slices_[move.slice].last += sign * move.blocks;
    slices_[move.slice + 1].first += sign * move.blocks;
  }

  /// Totals after the moves; none where a slice would be empty or too large.
  Totals after(const std::vector<Move>& moves) {
    Totals totals = totals_;
    std::set<int> changed;
    for (const Move& move : moves) changed.insert({move.slice, move.slice + 1});
    for (const int slice : changed) add(slice, totals, -1);
    for (const Move& move : moves) apply(move, 1);
    for (const int slice : changed) {
      if (!is_allowed(slice)) totals.clear();
      if (!totals.empty()) add(slice, totals, 1);
    }
    for (const Move& move : moves) apply(move, -1);
    return totals;
  }

  /// Makes the best of all moves of so many ends; false where none helps.
  bool try_moves(int num_ends) {
    const auto most = std::ranges::max_element(totals_);
    const int busiest = static_cast<int>(most - totals_.begin());
    std::vector<Move> best;
    Totals totals_of_best = totals_;
    const auto consider = [&](const std::vector<Move>& moves) {
      Totals totals = after(moves);
      if (totals.empty() || std::ranges::max(totals) >= std::ranges::max(totals_of_best)) return;
      best = moves;
      totals_of_best = std::move(totals);
    };
    for (int slice = 0; slice + 1 < placement_.num_slices(); ++slice) {
      // Where the busiest rank has no part nothing helps.
      if (placement_.rank_of(slice) != busiest && placement_.rank_of(slice + 1) != busiest)
        continue;
      for (const int blocks : {-1, 1}) {
        if (num_ends == 1) consider({{slice, blocks}});
        for (int other = 0; num_ends == 2 && other + 1 < placement_.num_slices(); ++other) {
          if (other == slice) continue;
          for (const int blocks_of_other : {-1, 1})
            consider({{slice, blocks}, {other, blocks_of_other}});
        }
      }
    }
    totals_ = std::move(totals_of_best);
    for (const Move& move : best) apply(move, 1);
    return !best.empty();
  }

  const RunCosts& cost_;
  const Placement& placement_;
  std::vector<BlockRange>& slices_;
  Totals totals_;
  double most_of_slice_ = 0;
};

}  // namespace

std::vector<BlockRange> partition(const Architecture& architecture, const Placement& placement,
                                  const std::vector<LayerCosts>& costs, double unevenness) {
  const int num_ranks = placement.num_ranks(), num_slices = placement.num_slices();
  const int num_blocks = architecture.num_blocks();
  REVODE_REQUIRE(num_ranks <= num_blocks,
                 "{} time ranks are too many: the network has {} blocks and every rank needs one; "
                 "start at most {} ranks",
                 num_ranks, num_blocks, num_blocks);
  REVODE_REQUIRE(num_slices <= num_blocks,
                 "--slices-per-rank {}: the network has {} blocks and every slice needs one; with "
                 "{} time ranks expected at most {}",
                 num_slices / num_ranks, num_blocks, num_ranks, num_blocks / num_ranks);
  std::vector<BlockCosts> of_rank;
  for (const LayerCosts& layers : costs) {
    BlockCosts& rank = of_rank.emplace_back();
    rank.first_extra = layers.opening.total();
    rank.last_extra = layers.closing.total();
    for (int block = 0; block < num_blocks; ++block) {
      rank.blocks.push_back(block_cost(architecture, layers, block).total());
      rank.entries.push_back(entry_cost(architecture, layers, block).total());
    }
  }
  std::vector<int> of_slice;
  for (int slice = 0; slice < num_slices; ++slice)
    of_slice.push_back(costs.size() == 1 ? 0 : placement.rank_of(slice));
  std::vector<BlockRange> slices = partition(of_rank, of_slice);
  if (num_slices > num_ranks) {
    const RunCosts cost(of_rank, of_slice);
    RankBalance(cost, placement, unevenness, slices).improve();
  }
  return slices;
}

std::vector<BlockRange> partition(const Architecture& architecture, int num_ranks) {
  return partition(architecture, Placement::round_robin(num_ranks, num_ranks),
                   {multiply_adds(architecture)});
}

std::vector<int> cut_evenly(int count, int num_parts) {
  const int parts = std::min(num_parts, count);
  std::vector<int> sizes(parts);
  for (int i = 0; i < count; ++i) ++sizes[i % parts];
  return sizes;
}

}  // namespace revode
