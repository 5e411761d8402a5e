#include "revode/train/regularizer.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "revode/core/digest.hpp"

namespace revode {
namespace {

/// Arrays beside the couplings, each one row, in front of them and behind them.
std::vector<const ParameterEntry*> arrays_in_front(const ParameterMap& map) {
  return {&map.opening_kernel, &map.opening_norm.scale, &map.opening_norm.shift};
}
std::vector<const ParameterEntry*> arrays_behind(const ParameterMap& map) {
  return {&map.closing_norm.scale, &map.closing_norm.shift, &map.closing_weight, &map.closing_bias};
}

}  // namespace

Regularizer::Regularizer(const Architecture& architecture, BlockRange range,
                         const ParameterMap& map, double weight_decay, double smoothness,
                         Backend<float>& backend, const Communicator& communicator,
                         const Placement& placement, int slice)
    : map_(map),
      backend_(backend),
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
               (map_.stages[stage].kernel.row_size() + map_.stages[stage].bias.row_size()) +
           digest_floats;
  };
  if (joined_before_) {
    before_ = StagedBuffer<float>(block_size(first_stage_), Memory::workspace, backend_);
    first_block_ = StagedBuffer<float>(block_size(first_stage_), Memory::workspace, backend_);
  }
  if (joined_after_) {
    after_ = StagedBuffer<float>(block_size(last_stage_), Memory::workspace, backend_);
    last_block_ = StagedBuffer<float>(block_size(last_stage_), Memory::workspace, backend_);
  }
  std::size_t num_sums = arrays_in_front(map_).size() + arrays_behind(map_).size();
  for (const auto& stage : map_.stages) num_sums += 2 * stage.kernel.num_rows;
  sums_ = StagedBuffer<RowSum>(num_sums, Memory::workspace, backend_);
}

void Regularizer::fetch_edges(const float* values) {
  const auto pack = [&](const ParameterMap::StageEntries& stage, std::int64_t row,
                        StagedBuffer<float>& block) {
    const std::size_t kernels = couplings_per_block_ * stage.kernel.row_size();
    backend_.copy(block.data(), values + stage.kernel.offset + row * stage.kernel.row_size(),
                  kernels * sizeof(float));
    backend_.copy(block.data() + kernels, values + stage.bias.offset + row * stage.bias.row_size(),
                  couplings_per_block_ * stage.bias.row_size() * sizeof(float));
    block.fetch();
  };
  if (joined_before_) pack(map_.stages[first_stage_], 0, first_block_);
  if (joined_after_) {
    const auto& stage = map_.stages[last_stage_];
    pack(stage, stage.kernel.num_rows - couplings_per_block_, last_block_);
  }
}

// The first block goes to the slice before, which takes it as `after`; the last block to the next.
void Regularizer::post_edges() {
  const auto exchange = [&](int neighbour, StagedBuffer<float>& theirs, MessageKind kind_of_theirs,
                            StagedBuffer<float>& mine, MessageKind kind_of_mine) {
    seal(mine.host());
    tell_guarded("edge weights", mine.host());
    const int peer = placement_.rank_of(neighbour);
    requests_.push_back(communicator_.receive(theirs.host(), peer, {kind_of_theirs, slice_}));
    requests_.push_back(communicator_.send(mine.host(), peer, {kind_of_mine, neighbour}));
  };
  if (joined_before_)
    exchange(slice_ - 1, before_, MessageKind::last_block, first_block_, MessageKind::first_block);
  if (joined_after_)
    exchange(slice_ + 1, after_, MessageKind::first_block, last_block_, MessageKind::last_block);
}

bool Regularizer::wait_for_edges() {
  for (Request& request : requests_) request.wait();
  requests_.clear();
  bool intact = true;
  for (StagedBuffer<float>* block : {&before_, &after_}) {
    if (block->size() == 0) continue;
    intact = is_sealed(block->host()) && intact;
    block->store();
  }
  return intact;
}

/// An array beside the couplings, which is one row.
RegularizedRows<float> Regularizer::rows_of(const ParameterEntry& entry, const float* values,
                                            float* gradient) const {
  return {.num_rows = 1,
          .row_size = entry.size(),
          .values = values + entry.offset,
          .gradient = gradient + entry.offset,
          .weight_decay = entry.decayed ? weight_decay_ : 0};
}

/// The kernels or biases of a stage. They begin at `place_in_block` in an edge block.
RegularizedRows<float> Regularizer::rows_of_stage(int stage, const ParameterEntry& entry,
                                                  std::size_t place_in_block, const float* values,
                                                  float* gradient) {
  const auto in_block = [&](bool edge_is_near, StagedBuffer<float>& block) {
    return edge_is_near && block.size() > 0 ? block.data() + place_in_block : nullptr;
  };
  return {.num_rows = entry.num_rows,
          .row_size = entry.row_size(),
          .rows_per_block = couplings_per_block_,
          .values = values + entry.offset,
          .before = in_block(stage == first_stage_, before_),
          .after = in_block(stage == last_stage_, after_),
          .gradient = gradient + entry.offset,
          .weight_decay = entry.decayed ? weight_decay_ : 0,
          .smoothness_over_h = smoothness_over_h_};
}

// d/dtheta_j = weight_decay theta_j (kernels) + smoothness/h * ((theta_j - theta_{j-1}) +
// (theta_j - theta_{j+1})), each where that block exists
void Regularizer::add(const float* values, float* gradient) {
  std::vector<RegularizedRows<float>> arrays;
  const auto add_whole = [&](const std::vector<const ParameterEntry*>& entries) {
    for (const ParameterEntry* entry : entries)
      if (entry->num_rows > 0) arrays.push_back(rows_of(*entry, values, gradient));
  };
  add_whole(arrays_in_front(map_));
  for (int stage = first_stage_; stage <= last_stage_; ++stage) {
    const auto& entries = map_.stages[stage];
    const std::size_t kernels = couplings_per_block_ * entries.kernel.row_size();
    arrays.push_back(rows_of_stage(stage, entries.kernel, 0, values, gradient));
    arrays.push_back(rows_of_stage(stage, entries.bias, kernels, values, gradient));
  }
  add_whole(arrays_behind(map_));
  backend_.regularize(arrays, sums_.data());
  sums_.fetch();
}

// One double a coupling, and one an array of the ends, in the order of the layers: so the sums do
// not depend on the cut.
RowSums Regularizer::row_sums() {
  RowSums sums;
  const RowSum* found = sums_.host().data();
  const auto add_whole = [&](const ParameterEntry& entry) {
    if (entry.num_rows == 0) return;
    const RowSum& of_array = *found++;
    if (entry.decayed) sums.decay.push_back(of_array.decay);
    sums.gradient.push_back(of_array.gradient);
  };
  for (const ParameterEntry* entry : arrays_in_front(map_)) add_whole(*entry);
  for (int stage = first_stage_; stage <= last_stage_; ++stage) {
    const std::int64_t rows = map_.stages[stage].kernel.num_rows;
    for (std::int64_t row = 0; row < rows; ++row) {
      const RowSum &kernel = found[row], &bias = found[rows + row];
      sums.decay.push_back(kernel.decay);
      sums.smoothness.push_back(kernel.smoothness + bias.smoothness);
      sums.gradient.push_back(kernel.gradient + bias.gradient);
    }
    found += 2 * rows;
  }
  for (const ParameterEntry* entry : arrays_behind(map_)) add_whole(*entry);
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
