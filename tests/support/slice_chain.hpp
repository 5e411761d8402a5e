// A network cut into time slices inside one process: states are handed from slice to slice by hand,
// so that a test can compare cuts, or look at a whole network as one slice.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "revode/core/random.hpp"
#include "revode/model/architecture.hpp"
#include "revode/model/parameters.hpp"
#include "revode/model/share.hpp"

#include "support/exact_values.hpp"
#include "support/numbers.hpp"

namespace revode {

/// A mini-batch of uniform images, its classes in turn, cut into micro-batches.
template <typename Real>
struct TestBatch {
  TestBatch(const Architecture& architecture, std::vector<int> sizes)
      : micro_batches(std::move(sizes)),
        image_size(architecture.image_channels() * architecture.stages().front().plane_size()),
        images(uniform_values<Real>(size() * image_size, -1.5, 1.5, 1000)),
        labels(size()) {
    for (int n = 0; n < size(); ++n)
      labels[n] = static_cast<std::uint8_t>((2 * n + 1) % architecture.num_classes());
  }
  int size() const { return std::accumulate(micro_batches.begin(), micro_batches.end(), 0); }
  int first_image(int micro_batch) const {
    return std::accumulate(micro_batches.begin(), micro_batches.begin() + micro_batch, 0);
  }
  const Real* images_of(int micro_batch) const {
    return images.data() + first_image(micro_batch) * image_size;
  }
  std::span<const std::uint8_t> labels_of(int micro_batch) const {
    return std::span(labels).subspan(first_image(micro_batch), micro_batches[micro_batch]);
  }

  std::vector<int> micro_batches;
  std::size_t image_size;
  std::vector<Real> images;
  std::vector<std::uint8_t> labels;
};

/// Random biases and norms in place of the initial zeros and ones, the same for every cut.
template <typename Real>
void randomise_small_arrays(const ParameterMap& map, Real* values) {
  std::uint64_t number = 0;
  for (const ParameterEntry* entry : map.entries()) {
    number += 1'000'000;
    const bool scale = entry->name.ends_with("scale"), shift = entry->name.ends_with("shift");
    if (!scale && !shift && !entry->name.ends_with("bias")) continue;
    for (std::int64_t row = 0; row < entry->num_rows; ++row) {
      const std::vector<Real> drawn =
          uniform_values<Real>(entry->row_size(), scale ? 0.5 : -0.3, scale ? 1.5 : 0.3,
                               number + entry->first_row + row);
      std::copy(drawn.begin(), drawn.end(), values + entry->offset + row * entry->row_size());
    }
  }
}

/// A share with random biases and norms.
template <typename Real>
std::unique_ptr<Share<Real>> make_random_share(const Architecture& architecture, int index,
                                               BlockRange range, Backend<Real>& backend,
                                               Activations activations = Activations::reverse) {
  auto share = std::make_unique<Share<Real>>(architecture, index, range, backend, activations, 7);
  share->values().fetch();
  randomise_small_arrays(share->map(), share->values().host().data());
  share->values().store();
  share->slice().load_weights();
  share->gradient();
  return share;
}

template <typename Real>
class SliceChain {
 public:
  SliceChain(const Architecture& architecture, const std::vector<BlockRange>& cut,
             Backend<Real>& backend, Activations activations = Activations::reverse)
      : backend_(backend) {
    for (const BlockRange range : cut)
      parts_.push_back(make_random_share(architecture, static_cast<int>(parts_.size()), range,
                                         backend, activations));
  }
  /// The whole network as one slice.
  SliceChain(const Architecture& architecture, Backend<Real>& backend,
             Activations activations = Activations::reverse)
      : SliceChain(architecture, {{0, architecture.num_blocks()}}, backend, activations) {}

  /// Forward sweep of every micro-batch; the mean loss.
  double forward(const TestBatch<Real>& batch, Mode mode) {
    const int num_micro_batches = static_cast<int>(batch.micro_batches.size());
    logits_.clear();
    for (auto& part : parts_) part->slice().begin_sweep(num_micro_batches);
    TimeSlice<Real>& first = parts_.front()->slice();
    TimeSlice<Real>& last = parts_.back()->slice();
    for (int m = 0; m < num_micro_batches; ++m) {
      const int size = batch.micro_batches[m];
      backend_.copy_in(first.images(m, size), batch.images_of(m),
                       size * batch.image_size * sizeof(Real));
      last.set_labels(m, batch.labels_of(m));
      for (auto& part : parts_) part->slice().forward(m, size, mode, room(state_, size));
      const std::span<const Real> logits = last.logits(m);
      logits_.insert(logits_.end(), logits.begin(), logits.end());
      if (mode != Mode::train) last.release(m);
    }
    for (auto& part : parts_) part->slice().finish_sweep();
    for (auto& part : parts_) part->slice().take_notes();
    double loss = 0;
    for (int m = 0; m < num_micro_batches; ++m) loss += last.result(m).loss_sum;
    return loss / batch.size();
  }

  /// Backward sweep of every micro-batch after forward(train), in `order` (empty: ascending);
  /// gradients from zero. Then running averages are updated.
  void backward(const TestBatch<Real>& batch, std::vector<int> order = {}) {
    if (order.empty()) {
      order.resize(batch.micro_batches.size());
      std::iota(order.begin(), order.end(), 0);
    }
    for (auto& part : parts_) part->gradient().clear();
    for (const int m : order) {
      const int size = batch.micro_batches[m];
      for (auto part = parts_.rbegin(); part != parts_.rend(); ++part)
        (*part)->slice().backward(m, size, batch.size(), room(state_, size), room(adjoint_, size));
    }
    for (auto& part : parts_) {
      part->slice().finish_sweep();
      part->slice().take_notes();
      part->gradient().finish();
      part->slice().update_running_averages();
    }
  }

  double train(const TestBatch<Real>& batch) {
    const double loss = forward(batch, Mode::train);
    backward(batch);
    return loss;
  }

  Share<Real>& part(int index = 0) { return *parts_[index]; }
  std::vector<std::unique_ptr<Share<Real>>>& parts() { return parts_; }
  /// [samples, classes] of the last forward sweep.
  const std::vector<Real>& logits() const { return logits_; }

  /// All arrays, each put together from the slices' rows, in the order of the checkpoint.
  std::vector<Real> values() const {
    return assemble([](Share<Real>& part) { return part.values().read(); });
  }
  /// After backward().
  std::vector<Real> gradient() const {
    return assemble([](Share<Real>& part) { return part.gradient().read_values(); });
  }

  /// Of the last sweep.
  RangeCounts range_counts() const {
    RangeCounts counts;
    for (auto& part : parts_) counts += part->slice().range_counts();
    return counts;
  }
  /// Of each stage.
  std::vector<float> largest_states() const {
    std::vector<float> all;
    for (auto& part : parts_) {
      const std::vector<float> of_part = part->slice().largest_states();
      all.resize(of_part.size());
      std::ranges::transform(all, of_part, all.begin(),
                             [](float a, float b) { return std::max(a, b); });
    }
    return all;
  }

 private:
  Real* room(Buffer<Real>& buffer, int batch) {
    std::size_t most = 0;
    for (auto& part : parts_)
      most = std::max(
          {most, part->slice().message_capacity(batch), part->slice().adjoint_capacity(batch)});
    buffer.ensure(most, Memory::state, backend_.space());
    return buffer.data();
  }
  template <typename Array>
  std::vector<Real> assemble(Array&& array_of) const {
    std::vector<Real> all;
    for (std::size_t e = 0; e < parts_.front()->map().entries().size(); ++e) {
      for (const auto& part : parts_) {
        const ParameterEntry& entry = *part->map().entries()[e];
        const auto rows = array_of(*part).subspan(entry.offset, entry.size());
        all.insert(all.end(), rows.begin(), rows.end());
      }
    }
    return all;
  }

  Backend<Real>& backend_;
  std::vector<std::unique_ptr<Share<Real>>> parts_;
  Buffer<Real> state_, adjoint_;
  std::vector<Real> logits_;
};

}  // namespace revode
