#include "revode/train/regularizer.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace revode {
namespace {

/// Sums over squares run in this many partial sums, of every num_partial-th term each, added up in
/// order at the end: additions that do not wait for each other, in an order that never changes.
constexpr std::size_t num_partial = 16;

/// sum over i < size of term(i)^2
template <typename Term>
double sum_of_squares(std::size_t size, Term&& term) {
  std::array<double, num_partial> partial{};
  std::size_t i = 0;
  for (; i + num_partial <= size; i += num_partial) {
    for (std::size_t k = 0; k < num_partial; ++k) {
      const double value = term(i + k);
      partial[k] += value * value;
    }
  }
  for (std::size_t k = 0; i + k < size; ++k) {
    const double value = term(i + k);
    partial[k] += value * value;
  }
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

double sum_of_squares(const float* values, std::size_t size) {
  return sum_of_squares(size, [&](std::size_t i) { return double{values[i]}; });
}

double sum_of_squared_differences(const float* a, const float* b, std::size_t size) {
  return sum_of_squares(size, [&](std::size_t i) { return double{a[i]} - b[i]; });
}

}  // namespace

Regularizer::Regularizer(const Architecture& architecture, BlockRange range,
                         const ParameterMap& map, double weight_decay, double smoothness,
                         const Communicator& communicator)
    : map_(map),
      communicator_(communicator),
      weight_decay_(weight_decay),
      smoothness_over_h_(smoothness / architecture.step_size()),
      couplings_per_block_(architecture.rule().couplings_per_block),
      first_stage_(architecture.stage_of_block(range.first)),
      last_stage_(architecture.stage_of_block(range.last - 1)) {
  joined_before_ = range.first > 0 && architecture.stage_of_block(range.first - 1) == first_stage_;
  joined_behind_ = range.last < architecture.num_blocks() &&
                   architecture.stage_of_block(range.last) == last_stage_;
  const auto block_size = [&](int stage) {
    return couplings_per_block_ *
           (map_.stages[stage].kernel.row_size() + map_.stages[stage].bias.row_size());
  };
  if (joined_before_) {
    before_ = Buffer<float>(block_size(first_stage_), Memory::workspace);
    first_block_ = Buffer<float>(block_size(first_stage_), Memory::workspace);
  }
  if (joined_behind_) {
    behind_ = Buffer<float>(block_size(last_stage_), Memory::workspace);
    last_block_ = Buffer<float>(block_size(last_stage_), Memory::workspace);
  }
}

// The first block goes to the rank before, which takes it as `behind`; the last block to the rank
// behind.
void Regularizer::exchange_edges(const float* values) {
  const auto pack = [&](const ParameterMap::StageEntries& stage, std::int64_t row,
                        Buffer<float>& block) {
    const std::size_t kernels = couplings_per_block_ * stage.kernel.row_size();
    std::copy_n(values + stage.kernel.offset + row * stage.kernel.row_size(), kernels,
                block.data());
    std::copy_n(values + stage.bias.offset + row * stage.bias.row_size(),
                couplings_per_block_ * stage.bias.row_size(), block.data() + kernels);
  };
  std::vector<Request> requests;
  if (joined_before_) {
    const int before = communicator_.rank() - 1;
    pack(map_.stages[first_stage_], 0, first_block_);
    requests.push_back(communicator_.receive(before_.span(), before, MessageKind::last_block));
    requests.push_back(communicator_.send(first_block_.span(), before, MessageKind::first_block));
  }
  if (joined_behind_) {
    const int behind = communicator_.rank() + 1;
    const auto& stage = map_.stages[last_stage_];
    pack(stage, stage.kernel.num_rows - couplings_per_block_, last_block_);
    requests.push_back(communicator_.receive(behind_.span(), behind, MessageKind::first_block));
    requests.push_back(communicator_.send(last_block_.span(), behind, MessageKind::last_block));
  }
  for (Request& request : requests) request.wait();
}

// d/dtheta_j = smoothness/h * ((theta_j - theta_{j-1}) + (theta_j - theta_{j+1})), each where that
// block exists
void Regularizer::add_smoothness(int stage, const float* values, float* gradient, RowSums& sums) {
  const auto factor = static_cast<float>(smoothness_over_h_);
  const auto& entries = map_.stages[stage];
  const std::int64_t rows = entries.kernel.num_rows;
  const std::size_t kernels = couplings_per_block_ * entries.kernel.row_size();
  for (std::int64_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (const ParameterEntry* entry : {&entries.kernel, &entries.bias}) {
      const std::size_t size = entry->row_size();
      const float* theta = values + entry->offset + row * size;
      float* grad = gradient + entry->offset + row * size;
      // Where a neighbour of this row lives: here, or in the edge block of the rank beside.
      const auto neighbour = [&](std::int64_t other, const Buffer<float>& edge,
                                 std::int64_t row_in_edge) {
        if (other >= 0 && other < rows) return values + entry->offset + other * size;
        if (edge.size() == 0) return static_cast<const float*>(nullptr);
        return edge.data() + (entry == &entries.bias ? kernels : 0) + row_in_edge * size;
      };
      const bool at_front = stage == first_stage_, at_back = stage == last_stage_;
      static const Buffer<float> none;
      const float* older = neighbour(row - couplings_per_block_, at_front ? before_ : none, row);
      const float* newer = neighbour(row + couplings_per_block_, at_back ? behind_ : none,
                                     row + couplings_per_block_ - rows);
      if (older != nullptr) {
        sum += sum_of_squared_differences(theta, older, size);
        for (std::size_t i = 0; i < size; ++i) grad[i] += factor * (theta[i] - older[i]);
      }
      if (newer != nullptr)
        for (std::size_t i = 0; i < size; ++i) grad[i] += factor * (theta[i] - newer[i]);
    }
    sums.smoothness.push_back(sum);
  }
}

RowSums Regularizer::add(const float* values, float* gradient) {
  exchange_edges(values);
  RowSums sums;
  const auto decay = static_cast<float>(weight_decay_);
  for (const ParameterEntry* entry : map_.entries()) {
    if (!entry->decayed) continue;
    for (std::size_t i = entry->offset; i < entry->offset + entry->size(); ++i)
      gradient[i] += decay * values[i];
  }
  for (int stage = first_stage_; stage <= last_stage_; ++stage)
    add_smoothness(stage, values, gradient, sums);

  // One double a coupling, and one an array of the ends, in the order of the layers: so the sums do
  // not depend on the cut.
  const auto add_whole = [&](const ParameterEntry& entry) {
    if (entry.num_rows == 0) return;
    if (entry.decayed) sums.decay.push_back(sum_of_squares(values + entry.offset, entry.size()));
    sums.gradient.push_back(sum_of_squares(gradient + entry.offset, entry.size()));
  };
  add_whole(map_.opening_kernel);
  add_whole(map_.opening_norm.scale);
  add_whole(map_.opening_norm.shift);
  for (const auto& [kernel, bias] : map_.stages) {
    for (std::int64_t row = 0; row < kernel.num_rows; ++row) {
      const std::size_t k = kernel.offset + row * kernel.row_size(),
                        b = bias.offset + row * bias.row_size();
      sums.decay.push_back(sum_of_squares(values + k, kernel.row_size()));
      sums.gradient.push_back(sum_of_squares(gradient + k, kernel.row_size()) +
                              sum_of_squares(gradient + b, bias.row_size()));
    }
  }
  add_whole(map_.closing_norm.scale);
  add_whole(map_.closing_norm.shift);
  add_whole(map_.closing_weight);
  add_whole(map_.closing_bias);
  return sums;
}

double Regularizer::value(const std::vector<double>& decay,
                          const std::vector<double>& smoothness) const {
  const auto sum = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0);
  };
  return weight_decay_ / 2 * sum(decay) + smoothness_over_h_ / 2 * sum(smoothness);
}

}  // namespace revode
