// One split as this rank needs it: pixels on the reader, labels everywhere, and mini-batches
// cut from an order of images. Everything drawn at random depends on (seed, epoch, image) alone.
// Pixels become input where the network is computed: only what is drawn goes there in a step.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/comm/grid.hpp"
#include "revode/config/config.hpp"
#include "revode/core/buffer.hpp"
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
  /// [channels, height, width], as stored; on the reader only.
  std::span<const std::uint8_t> pixels(std::int64_t index) const { return data_.image(index); }

  /// Of the samples used; on the reader only.
  ChannelStatistics statistics() const;
  /// On the reader, before images are asked for: how they become input, and whose calls make them
  /// so. Where the backend's memory is not the host's, it gets a copy of the pixels.
  void set_transform(InputTransform transform, std::shared_ptr<Backend<float>> backend);

  /// The samples `indices` (of the split) as one mini-batch cut into micro-batches, for a network
  /// on the backend that was named; must not outlive this object.
  MiniBatchSource mini_batch(std::vector<std::int64_t> indices, std::int64_t epoch,
                             int num_micro_batches) const;

 private:
  /// What cuts images, and what it has in its memory for that.
  struct Cutter {
    Cutter(const InputTransform& transform, const Dataset& data,
           std::shared_ptr<Backend<float>> backend_in);

    /// The dataset's own array serves the backend.
    bool shares_pixels() const { return backend->space().host_accessible(); }

    std::shared_ptr<Backend<float>> backend;
    Buffer<std::uint8_t> pixels;  ///< of all samples used, unless they are shared
    bool has_pixels = false;      ///< they are there: from when the first images are asked for
    StagedBuffer<float> mean, deviation;  ///< [channels]
  };

  void cut_images(std::span<const std::int64_t> indices, std::int64_t epoch,
                  Backend<float>& backend, float* images) const;
  /// In the backend's memory, with the images `indices` at least.
  const std::uint8_t* pixels_for(std::span<const std::int64_t> indices) const;

  const Grid* grid_;
  Split split_;
  Dataset data_;
  std::vector<std::int64_t> indices_;
  InputTransform transform_;
  std::unique_ptr<Cutter> cutter_;
};

}  // namespace revode
