#include "revode/train/regularizer.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace revode {
namespace {

/// Sums of squares run in this many partial sums, of every num_partial-th term each, added up in
/// order at the end: additions that do not wait for each other, in an order that never changes.
constexpr std::size_t num_partial = 8;

struct SumOfSquares {
  void add(std::size_t place, double term) { partial[place] += term * term; }
  double total() const { return std::accumulate(partial.begin(), partial.end(), 0.0); }

  std::array<double, num_partial> partial{};
};

/// Sums over a row or an array; see RowSums.
struct Sums {
  double decay = 0;
  double smoothness = 0;
  double gradient = 0;
};

/// gradient += decay * theta + factor * ((theta - older) + (theta - newer)), where there is such,
/// in one pass; the sums are of what is there.
template <bool has_older, bool has_newer>
Sums add_terms(std::size_t size, const float* theta, const float* older, const float* newer,
               float decay, float factor, float* gradient) {
  SumOfSquares decay_sum, smoothness_sum, gradient_sum;
  const auto add = [&](std::size_t i, std::size_t place) {
    float g = gradient[i] + decay * theta[i];
    if constexpr (has_older) {
      g += factor * (theta[i] - older[i]);
      smoothness_sum.add(place, double{theta[i]} - older[i]);
    }
    if constexpr (has_newer) g += factor * (theta[i] - newer[i]);
    gradient[i] = g;
    decay_sum.add(place, theta[i]);
    gradient_sum.add(place, g);
  };
  std::size_t i = 0;
  for (; i + num_partial <= size; i += num_partial)
    for (std::size_t k = 0; k < num_partial; ++k) add(i + k, k);
  for (std::size_t k = 0; i + k < size; ++k) add(i + k, k);
  return {decay_sum.total(), smoothness_sum.total(), gradient_sum.total()};
}

Sums add_terms(std::size_t size, const float* theta, const float* older, const float* newer,
               float decay, float factor, float* gradient) {
  const auto run = older != nullptr
                       ? newer != nullptr ? add_terms<true, true> : add_terms<true, false>
                   : newer != nullptr ? add_terms<false, true>
                                      : add_terms<false, false>;
  return run(size, theta, older, newer, decay, factor, gradient);
}

}  // namespace

Regularizer::Regularizer(const Architecture& architecture, BlockRange range,
                         const ParameterMap& map, double weight_decay, double smoothness,
                         const Communicator& communicator, const Placement& placement, int slice)
    : map_(map),
      communicator_(communicator),
      placement_(placement),
      slice_(slice),
      weight_decay_(weight_decay),
      smoothness_over_h_(smoothness / architecture.step_size()),
      couplings_per_block_(architecture.rule().couplings_per_block),
      first_stage_(architecture.stage_of_block(range.first)),
      last_stage_(architecture.stage_of_block(range.last - 1)) {
  joined_before_ = range.first > 0 && architecture.stage_of_block(range.first - 1) == first_stage_;
  joined_after_ = range.last < architecture.num_blocks() &&
                  architecture.stage_of_block(range.last) == last_stage_;
  const auto block_size = [&](int stage) {
    return couplings_per_block_ *
           (map_.stages[stage].kernel.row_size() + map_.stages[stage].bias.row_size());
  };
  if (joined_before_) {
    before_ = Buffer<float>(block_size(first_stage_), Memory::workspace);
    first_block_ = Buffer<float>(block_size(first_stage_), Memory::workspace);
  }
  if (joined_after_) {
    after_ = Buffer<float>(block_size(last_stage_), Memory::workspace);
    last_block_ = Buffer<float>(block_size(last_stage_), Memory::workspace);
  }
}

// The first block goes to the slice before, which takes it as `after`; the last block to the next.
void Regularizer::post_edges(const float* values) {
  const auto pack = [&](const ParameterMap::StageEntries& stage, std::int64_t row,
                        Buffer<float>& block) {
    const std::size_t kernels = couplings_per_block_ * stage.kernel.row_size();
    std::copy_n(values + stage.kernel.offset + row * stage.kernel.row_size(), kernels,
                block.data());
    std::copy_n(values + stage.bias.offset + row * stage.bias.row_size(),
                couplings_per_block_ * stage.bias.row_size(), block.data() + kernels);
  };
  const auto exchange = [&](int neighbour, Buffer<float>& theirs, MessageKind kind_of_theirs,
                            const Buffer<float>& mine, MessageKind kind_of_mine) {
    const int peer = placement_.rank_of(neighbour);
    requests_.push_back(communicator_.receive(theirs.span(), peer, {kind_of_theirs, slice_}));
    requests_.push_back(communicator_.send(mine.span(), peer, {kind_of_mine, neighbour}));
  };
  if (joined_before_) {
    pack(map_.stages[first_stage_], 0, first_block_);
    exchange(slice_ - 1, before_, MessageKind::last_block, first_block_, MessageKind::first_block);
  }
  if (joined_after_) {
    const auto& stage = map_.stages[last_stage_];
    pack(stage, stage.kernel.num_rows - couplings_per_block_, last_block_);
    exchange(slice_ + 1, after_, MessageKind::first_block, last_block_, MessageKind::last_block);
  }
}

void Regularizer::wait_for_edges() {
  for (Request& request : requests_) request.wait();
  requests_.clear();
}

// d/dtheta_j = weight_decay theta_j (kernels) + smoothness/h * ((theta_j - theta_{j-1}) +
// (theta_j - theta_{j+1})), each where that block exists
void Regularizer::add_stage(int stage, const float* values, float* gradient, RowSums& sums) const {
  const auto decay = static_cast<float>(weight_decay_);
  const auto factor = static_cast<float>(smoothness_over_h_);
  const auto& entries = map_.stages[stage];
  const std::int64_t rows = entries.kernel.num_rows;
  const std::size_t kernels = couplings_per_block_ * entries.kernel.row_size();
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto add = [&](const ParameterEntry& entry) {
      const std::size_t size = entry.row_size();
      // Where a neighbour of this row lives: here, or in the edge block of the rank beside.
      const auto neighbour = [&](std::int64_t other, bool edge_is_near, const Buffer<float>& edge,
                                 std::int64_t row_in_edge) {
        if (other >= 0 && other < rows) return values + entry.offset + other * size;
        if (!edge_is_near || edge.size() == 0) return static_cast<const float*>(nullptr);
        return edge.data() + (&entry == &entries.bias ? kernels : 0) + row_in_edge * size;
      };
      const std::size_t at = entry.offset + row * size;
      return add_terms(size, values + at,
                       neighbour(row - couplings_per_block_, stage == first_stage_, before_, row),
                       neighbour(row + couplings_per_block_, stage == last_stage_, after_,
                                 row + couplings_per_block_ - rows),
                       entry.decayed ? decay : 0, factor, gradient + at);
    };
    const Sums of_kernel = add(entries.kernel), of_bias = add(entries.bias);
    sums.decay.push_back(of_kernel.decay);
    sums.smoothness.push_back(of_kernel.smoothness + of_bias.smoothness);
    sums.gradient.push_back(of_kernel.gradient + of_bias.gradient);
  }
}

// One double a coupling, and one an array of the ends, in the order of the layers: so the sums do
// not depend on the cut.
RowSums Regularizer::add(const float* values, float* gradient) const {
  RowSums sums;
  const auto add_whole = [&](const ParameterEntry& entry) {
    if (entry.num_rows == 0) return;
    const Sums of_array = add_terms(entry.size(), values + entry.offset, nullptr, nullptr,
                                    entry.decayed ? static_cast<float>(weight_decay_) : 0, 0,
                                    gradient + entry.offset);
    if (entry.decayed) sums.decay.push_back(of_array.decay);
    sums.gradient.push_back(of_array.gradient);
  };
  add_whole(map_.opening_kernel);
  add_whole(map_.opening_norm.scale);
  add_whole(map_.opening_norm.shift);
  for (int stage = first_stage_; stage <= last_stage_; ++stage)
    add_stage(stage, values, gradient, sums);
  add_whole(map_.closing_norm.scale);
  add_whole(map_.closing_norm.shift);
  add_whole(map_.closing_weight);
  add_whole(map_.closing_bias);
  return sums;
}

double Regularizer::value(const RowSums& all) const {
  const auto sum = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0);
  };
  return weight_decay_ / 2 * sum(all.decay) + smoothness_over_h_ / 2 * sum(all.smoothness);
}

// A slice travels as three lengths and three arrays; ranks send their slices in ascending order.
RowSums gather_row_sums(const Communicator& communicator, const Placement& placement,
                        const std::vector<RowSums>& mine) {
  constexpr std::vector<double> RowSums::*arrays[] = {&RowSums::decay, &RowSums::smoothness,
                                                      &RowSums::gradient};
  std::vector<double> packed;
  for (const RowSums& sums : mine) {
    for (const auto array : arrays) packed.push_back(static_cast<double>((sums.*array).size()));
    for (const auto array : arrays)
      packed.insert(packed.end(), (sums.*array).begin(), (sums.*array).end());
  }
  const std::vector<double> all = communicator.all_gather(packed);
  std::vector<RowSums> of_slice(placement.num_slices());
  auto next = all.begin();
  for (int rank = 0; rank < placement.num_ranks(); ++rank) {
    for (const int slice : placement.slices_of(rank)) {
      auto length = next;
      next += std::size(arrays);
      for (const auto array : arrays) {
        const auto end = next + static_cast<std::ptrdiff_t>(*length++);
        (of_slice[slice].*array).assign(next, end);
        next = end;
      }
    }
  }
  RowSums in_order;
  for (const RowSums& sums : of_slice)
    for (const auto array : arrays)
      (in_order.*array).insert((in_order.*array).end(), (sums.*array).begin(), (sums.*array).end());
  return in_order;
}

}  // namespace revode
