// Images and labels: the publishers' binary formats, the built-in synthetic set, class-balanced
// subsets, channel statistics.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "revode/core/buffer.hpp"

namespace revode {

enum class Split { train, test };
std::string_view to_string(Split split);

/// Ranks that compute the opening need images; the rank of the closing needs only labels.
enum class Contents { images_and_labels, labels_only };

struct ImageShape {
  int channels = 0;
  int height = 0;
  int width = 0;
  std::size_t size() const { return static_cast<std::size_t>(channels) * height * width; }
  bool operator==(const ImageShape&) const = default;
};

/// What is known of a dataset without reading it.
struct DatasetInfo {
  std::string name;
  ImageShape image;
  int num_classes = 0;
  bool needs_folder = true;
  std::int64_t num_train_images = 0;  ///< as published
};

/// Names that --dataset takes, in the order of --help.
std::vector<std::string> dataset_names();
/// Throws an input error for an unknown name.
const DatasetInfo& dataset_info(std::string_view name);

/// One split in memory.
struct Dataset {
  DatasetInfo info;
  Split split = Split::train;
  std::int64_t size = 0;
  /// [size, channels, height, width], row-major planes; empty for labels_only. To be read through
  /// image().
  mutable Buffer<std::uint8_t> pixels;
  Buffer<std::uint8_t> labels;  ///< [size], 0 .. num_classes - 1
  /// Where images are made and not read: fills one when it is first asked for, since a run may use
  /// few of them.
  std::function<void(std::int64_t index, std::uint8_t* pixels)> make_image = {};
  mutable std::vector<bool> is_made = {};

  /// Not from several threads at once.
  std::span<const std::uint8_t> image(std::int64_t index) const {
    const std::span<std::uint8_t> values =
        pixels.span().subspan(index * info.image.size(), info.image.size());
    if (make_image && !is_made[index]) {
      make_image(index, values.data());
      is_made[index] = true;
    }
    return values;
  }
};

/// Reads one split from `folder` (unused by synthetic). Throws an input error that names the file,
/// what was found, what was expected (wrong size, label out of range, missing file, wrong folder
/// and which dataset it looks like).
Dataset load_dataset(std::string_view name, const std::filesystem::path& folder, Split split,
                     Contents contents);

/// Indices (ascending) of a class-balanced subset: round(fraction * count) of each class, at least
/// 1 where the class has any, chosen by (seed, Purpose::subset, class). fraction in (0, 1]; 1 gives
/// all.
std::vector<std::int64_t> balanced_subset(std::span<const std::uint8_t> labels, int num_classes,
                                          double fraction, std::uint64_t seed);

/// Mean and standard deviation a channel of pixels / 255 over the images `indices`, from integer
/// sums (exact, order-free). A channel without spread gets std 1.
struct ChannelStatistics {
  std::vector<float> mean;
  std::vector<float> std;
};
ChannelStatistics channel_statistics(const Dataset& dataset, std::span<const std::int64_t> indices);

/// CRC-32: of all labels; of the labels of the images `indices`, followed by their pixels where the
/// dataset has them.
std::uint32_t label_digest(const Dataset& dataset);
std::uint32_t dataset_digest(const Dataset& dataset, std::span<const std::int64_t> indices);

/// `indices` in the order of an epoch: a permutation drawn from (seed, Purpose::shuffle, epoch).
std::vector<std::int64_t> epoch_order(std::span<const std::int64_t> indices, std::uint64_t seed,
                                      std::int64_t epoch);

/// How images become input: (pixel / 255 - mean) / std a channel, then where asked for a random
/// crop from 4 pixels of zero padding and a random horizontal flip.
struct InputTransform {
  ChannelStatistics statistics;
  bool augment = false;
  std::uint64_t seed = 0;
};

/// Which part of an image, with zero around it, becomes the input:
///   input[y][x] = image[y + row][x' + column],  x' = x, or width - 1 - x where flipped
struct Crop {
  int row = 0;  ///< -4 .. 4
  int column = 0;
  bool flip = false;
};

/// That of an image (by its index in the split) in an epoch, drawn from (seed,
/// Purpose::augmentation, epoch, index); the image itself without augmentation.
Crop draw_crop(const InputTransform& transform, std::int64_t epoch, std::int64_t index);

}  // namespace revode
