// One split as this rank needs it: pixels on the reader, labels everywhere, and mini-batches
// cut from an order of images. Everything drawn at random depends on (seed, epoch, image) alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "revode/comm/grid.hpp"
#include "revode/config/config.hpp"
#include "revode/data/dataset.hpp"
#include "revode/pipeline/network_work.hpp"

namespace revode {

class DataFeed {
 public:
  /// Collective: reads what this rank needs and agrees on success, and that all ranks read the same
  /// labels. fraction < 1 takes a class-balanced subset.
  DataFeed(const Config& config, Split split, double fraction, const Grid& grid);

  /// What tells these samples, images and labels, from others, as hexadecimal digits; the same on
  /// every rank. Collective.
  std::string digest() const;

  std::int64_t size() const { return static_cast<std::int64_t>(indices_.size()); }
  Split split() const { return split_; }
  /// Indices into the split of the samples used, ascending.
  const std::vector<std::int64_t>& indices() const { return indices_; }
  std::uint8_t label(std::int64_t index) const { return data_.labels[index]; }

  /// Of the samples used; on the reader only.
  ChannelStatistics statistics() const;
  /// Normalisation (reader) and augmentation of what follows.
  void set_transform(InputTransform transform) { transform_ = std::move(transform); }

  /// The samples `indices` (of the split) as one mini-batch cut into micro-batches; must not
  /// outlive this object.
  MiniBatchSource mini_batch(std::vector<std::int64_t> indices, std::int64_t epoch,
                             int num_micro_batches) const;

 private:
  const Grid* grid_;
  Split split_;
  Dataset data_;
  std::vector<std::int64_t> indices_;
  InputTransform transform_;
};

}  // namespace revode
