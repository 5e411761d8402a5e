// From stored pixels to a network's input: which images, in which order, normalised by what, and
// which part of each. Every random choice is a function of (seed, purpose, index), so any rank can
// make any image of any epoch.
#include <algorithm>
#include <cmath>

#include "revode/core/error.hpp"
#include "revode/core/random.hpp"
#include "revode/data/dataset.hpp"

namespace revode {

namespace {

/// Fisher-Yates: afterwards the first `count` items are a uniform draw without repetition, in
/// random order.
void shuffle_front(std::span<std::int64_t> items, std::int64_t count, RandomStream& random) {
  const std::int64_t size = static_cast<std::int64_t>(items.size());
  for (std::int64_t i = 0; i < count && i + 1 < size; ++i) {
    std::swap(items[i], items[i + random.below(static_cast<std::uint32_t>(size - i))]);
  }
}

}  // namespace

std::vector<std::int64_t> balanced_subset(std::span<const std::uint8_t> labels, int num_classes,
                                          double fraction, std::uint64_t seed) {
  REVODE_REQUIRE(fraction > 0 && fraction <= 1,
                 "--train-fraction: found {}, expected a number above 0 and at most 1", fraction);
  std::vector<std::vector<std::int64_t>> members(num_classes);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    REVODE_ASSERT(labels[i] < num_classes);
    members[labels[i]].push_back(static_cast<std::int64_t>(i));
  }
  std::vector<std::int64_t> subset;
  for (int label = 0; label < num_classes; ++label) {
    std::vector<std::int64_t>& candidates = members[label];
    if (candidates.empty()) continue;
    const std::int64_t share = std::llround(fraction * static_cast<double>(candidates.size()));
    const std::int64_t count = std::max<std::int64_t>(1, share);
    RandomStream random(seed, Purpose::subset, label);
    shuffle_front(candidates, count, random);
    subset.insert(subset.end(), candidates.begin(), candidates.begin() + count);
  }
  std::sort(subset.begin(), subset.end());
  return subset;
}

ChannelStatistics channel_statistics(const Dataset& dataset,
                                     std::span<const std::int64_t> indices) {
  REVODE_REQUIRE(!indices.empty(), "no images to take channel means of in the {} split of {}",
                 to_string(dataset.split), dataset.info.name);
  const ImageShape& shape = dataset.info.image;
  const std::size_t plane = static_cast<std::size_t>(shape.height) * shape.width;
  ChannelStatistics statistics;
  for (int channel = 0; channel < shape.channels; ++channel) {
    std::uint64_t sum = 0;
    std::uint64_t sum_of_squares = 0;
    for (const std::int64_t index : indices) {
      for (const std::uint64_t value : dataset.image(index).subspan(channel * plane, plane)) {
        sum += value;
        sum_of_squares += value * value;
      }
    }
    // variance * (255 n)^2 = n sum(v^2) - (sum v)^2, exact in 128 bits (n v^2 leaves 64 bits at
    // some 2e7 pixels).
    using Wide = unsigned __int128;
    const std::uint64_t n = indices.size() * plane;
    const Wide scaled_variance = Wide{n} * sum_of_squares - Wide{sum} * sum;
    const double scale = 255.0 * static_cast<double>(n);
    const double deviation = std::sqrt(static_cast<double>(scaled_variance)) / scale;
    statistics.mean.push_back(static_cast<float>(static_cast<double>(sum) / scale));
    statistics.std.push_back(scaled_variance == 0 ? 1.0f : static_cast<float>(deviation));
  }
  return statistics;
}

std::vector<std::int64_t> epoch_order(std::span<const std::int64_t> indices, std::uint64_t seed,
                                      std::int64_t epoch,
                                      std::span<const std::int64_t> shuffled_from) {
  std::vector<std::int64_t> order(indices.begin(), indices.end());
  const auto shuffle = [&](std::int64_t first, RandomStream random) {
    const auto rest = std::span(order).subspan(static_cast<std::size_t>(first));
    shuffle_front(rest, static_cast<std::int64_t>(rest.size()), random);
  };
  shuffle(0, {seed, Purpose::shuffle, static_cast<std::uint64_t>(epoch)});
  for (std::size_t n = 0; n < shuffled_from.size(); ++n)
    shuffle(shuffled_from[n],
            {seed, Purpose::reshuffle, (static_cast<std::uint64_t>(epoch) << 32) + n + 1});
  return order;
}

// Draws, in this order: row (0 .. 8 of the padded image), column (0 .. 8), flip (0 or 1), each with
// RandomStream::below.
Crop draw_crop(const InputTransform& transform, std::int64_t epoch, std::int64_t index) {
  constexpr int padding = 4;
  if (!transform.augment) return {};
  RandomStream random(
      transform.seed, Purpose::augmentation,
      (static_cast<std::uint64_t>(epoch) << 32) + static_cast<std::uint64_t>(index));
  Crop crop;
  crop.row = static_cast<int>(random.below(2 * padding + 1)) - padding;
  crop.column = static_cast<int>(random.below(2 * padding + 1)) - padding;
  crop.flip = random.below(2) == 1;
  return crop;
}

}  // namespace revode
