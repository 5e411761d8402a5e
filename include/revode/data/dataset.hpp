// Images and labels: the publishers' binary formats, the built-in synthetic set, class-balanced
// subsets, channel statistics.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
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
  std::int64_t num_test_images = 0;   ///< as published
  /// By the program, at any size: what has no files.
  bool is_drawn() const { return !needs_folder; }
};

/// Sides of images that are drawn, in pixels. Where there are fewer pixels stripes are finer than
/// they.
inline constexpr int smallest_image_size = 16;
inline constexpr int largest_image_size = 1024;

/// Names that --dataset takes, in the order of --help.
std::vector<std::string> dataset_names();
/// image_size: of images that are drawn, 32 unless given. Throws an input error for an unknown
/// name, and for a size where images are read.
DatasetInfo dataset_info(std::string_view name, std::optional<int> image_size = {});

/// One split in memory.
struct Dataset {
  DatasetInfo info;
  Split split = Split::train;
  std::int64_t size = 0;
  /// [rows, channels, height, width], row-major planes; empty for labels_only. To be read through
  /// image().
  mutable Buffer<std::uint8_t> pixels;
  Buffer<std::uint8_t> labels;  ///< [size], 0 .. num_classes - 1
  /// Where images are drawn and not read: draws one when it is first asked for, since a run may use
  /// few of them.
  std::function<void(std::int64_t index, std::uint8_t* pixels)> draw_image = {};
  mutable std::vector<bool> is_drawn = {};  ///< by row
  std::vector<std::int64_t> rows = {};      ///< by index, -1: not kept; empty: the index itself

  bool has_images() const { return draw_image || pixels.size() > 0; }
  std::int64_t num_rows() const {
    return static_cast<std::int64_t>(pixels.size() / info.image.size());
  }
  std::int64_t row_of(std::int64_t index) const { return rows.empty() ? index : rows[index]; }

  /// From now on `pixels` has room for the images `indices` (ascending) alone, in this order.
  void keep(std::span<const std::int64_t> indices);
  /// One that is kept; all are unless keep() said otherwise. Not from several threads at once.
  std::span<const std::uint8_t> image(std::int64_t index) const;
};

/// Reads one split from `folder` (unused where images are drawn). Throws an input error that names
/// the file, what was found, what was expected (wrong size, label out of range, missing file, wrong
/// folder and which dataset it looks like).
Dataset load_dataset(const DatasetInfo& info, const std::filesystem::path& folder, Split split,
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
/// Then, for the n-th (from 1) of `shuffled_from`, what lies from that place on is shuffled again,
/// by (seed, Purpose::reshuffle, epoch, n).
std::vector<std::int64_t> epoch_order(std::span<const std::int64_t> indices, std::uint64_t seed,
                                      std::int64_t epoch,
                                      std::span<const std::int64_t> shuffled_from = {});

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
