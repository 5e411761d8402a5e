#include "revode/train/data_feed.hpp"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "revode/core/activity.hpp"
#include "revode/core/error.hpp"
#include "revode/pipeline/partition.hpp"

namespace revode {

DataFeed::DataFeed(const Config& config, Split split, double fraction, const Grid& grid)
    : grid_(&grid), split_(split) {
  // Every rank needs the labels: their number sets the length of an epoch. They are small; the
  // pixels are not.
  grid.world().agree([&] {
    const ActivityScope at({.what = "reads the dataset"});
    data_ = load_dataset(dataset_info(config.dataset, config.image_size), config.data_dir, split,
                         grid.is_reader() ? Contents::images_and_labels : Contents::labels_only);
  });
  grid.world().require_same(
      {{fmt::format("the {} split of {}", to_string(split), config.dataset),
        fmt::format("{} labels of digest {:08x}", data_.size, label_digest(data_))}},
      "let --data-dir name the same files on every rank");
  if (fraction < 1) {
    indices_ = balanced_subset(data_.labels.span(), data_.info.num_classes, fraction, config.seed);
  } else {
    indices_.resize(data_.size);
    std::iota(indices_.begin(), indices_.end(), std::int64_t{0});
  }
  grid.world().agree([&] { data_.keep(indices_); });
}

std::string DataFeed::digest() const {
  const std::string mine =
      grid_->is_reader() ? fmt::format("{:08x}", dataset_digest(data_, indices_)) : "";
  return grid_->time().broadcast(mine, 0);
}

ChannelStatistics DataFeed::statistics() const { return channel_statistics(data_, indices_); }

DataFeed::Cutter::Cutter(const InputTransform& transform, const Dataset& data,
                         std::shared_ptr<Backend<float>> backend_in)
    : backend(std::move(backend_in)),
      mean(data.info.image.channels, Memory::data, *backend),
      deviation(data.info.image.channels, Memory::data, *backend) {
  if (!shares_pixels())
    pixels = Buffer<std::uint8_t>(data.pixels.size(), Memory::data, backend->space());
  std::ranges::copy(transform.statistics.mean, mean.host().begin());
  std::ranges::copy(transform.statistics.std, deviation.host().begin());
  mean.store();
  deviation.store();
}

void DataFeed::set_transform(InputTransform transform, std::shared_ptr<Backend<float>> backend) {
  transform_ = std::move(transform);
  cutter_ = nullptr;  // so that there are never two
  cutter_ = std::make_unique<Cutter>(transform_, data_, std::move(backend));
}

// The host keeps its pixels: another network may ask for them, on another backend.
const std::uint8_t* DataFeed::pixels_for(std::span<const std::int64_t> indices) const {
  if (cutter_->shares_pixels()) {
    for (const std::int64_t index : indices) data_.image(index);
    return data_.pixels.data();
  }
  if (!cutter_->has_pixels) {
    for (const std::int64_t index : indices_) data_.image(index);
    Backend<float>& backend = *cutter_->backend;
    backend.copy_in(cutter_->pixels.data(), data_.pixels.data(), data_.pixels.bytes());
    backend.wait(backend.mark());
    cutter_->has_pixels = true;
  }
  return cutter_->pixels.data();
}

void DataFeed::cut_images(std::span<const std::int64_t> indices, std::int64_t epoch,
                          Backend<float>& backend, float* images) const {
  std::vector<DrawnImage> drawn;
  for (const std::int64_t index : indices) {
    const Crop crop = draw_crop(transform_, epoch, index);
    drawn.push_back(
        {.index = data_.row_of(index), .row = crop.row, .column = crop.column, .flip = crop.flip});
  }
  const ImageShape& shape = data_.info.image;
  backend.cut_images({.num_images = data_.num_rows(),
                      .channels = shape.channels,
                      .height = shape.height,
                      .width = shape.width,
                      .pixels = pixels_for(indices),
                      .mean = cutter_->mean.data(),
                      .deviation = cutter_->deviation.data()},
                     drawn, images);
}

MiniBatchSource DataFeed::mini_batch(std::vector<std::int64_t> indices, std::int64_t epoch,
                                     int num_micro_batches) const {
  struct Cut {
    std::vector<std::int64_t> indices;
    std::vector<std::uint8_t> labels;
    std::vector<int> sizes;
    std::vector<std::size_t> offsets;  // of the micro-batches
  };
  auto cut = std::make_shared<Cut>();
  cut->indices = std::move(indices);
  for (const std::int64_t index : cut->indices) cut->labels.push_back(data_.labels[index]);
  cut->sizes = cut_evenly(static_cast<int>(cut->indices.size()), num_micro_batches);
  cut->offsets.resize(cut->sizes.size());
  std::exclusive_scan(cut->sizes.begin(), cut->sizes.end(), cut->offsets.begin(), std::size_t{0});
  return {.micro_batches = cut->sizes,
          .images =
              [this, cut, epoch](int m, Backend<float>& backend, float* images) {
                REVODE_ASSERT(cutter_ != nullptr && cutter_->backend.get() == &backend);
                cut_images(std::span(cut->indices).subspan(cut->offsets[m], cut->sizes[m]), epoch,
                           backend, images);
              },
          .labels = [cut](int m) -> std::span<const std::uint8_t> {
            return std::span(cut->labels).subspan(cut->offsets[m], cut->sizes[m]);
          }};
}

}  // namespace revode
