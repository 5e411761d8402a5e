// Subsets, orders, channel statistics and augmentation: pure functions of images, seeds and
// counters.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "revode/core/error.hpp"
#include "revode/core/random.hpp"
#include "revode/data/dataset.hpp"

#include "support/error_text.hpp"

namespace revode {
namespace {

using Indices = std::vector<std::int64_t>;

Indices up_to(std::int64_t count) {
  Indices indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

TEST(BalancedSubset, TakesTheRoundedShareOfEachClass) {
  // 40 of class 0, 11 of class 1, none of class 2, 1 of class 3.
  std::vector<std::uint8_t> labels(40, 0);
  labels.insert(labels.end(), 11, 1);
  labels.push_back(3);

  const Indices subset = balanced_subset(labels, 4, 0.05, 1);

  std::vector<int> counts(4);
  for (const std::int64_t index : subset) ++counts[labels[index]];
  EXPECT_EQ(counts, (std::vector<int>{2, 1, 0, 1}));  // round(0.55) = 1; at least 1
  EXPECT_TRUE(std::is_sorted(subset.begin(), subset.end()));
  EXPECT_EQ(std::set<std::int64_t>(subset.begin(), subset.end()).size(), subset.size());
}

TEST(BalancedSubset, DependsOnTheSeedAndNothingElse) {
  const std::vector<std::uint8_t> labels(1000, 0);

  EXPECT_EQ(balanced_subset(labels, 1, 0.1, 7), balanced_subset(labels, 1, 0.1, 7));
  EXPECT_NE(balanced_subset(labels, 1, 0.1, 7), balanced_subset(labels, 1, 0.1, 8));
  EXPECT_EQ(balanced_subset(labels, 1, 1, 7), up_to(1000));
}

TEST(BalancedSubset, FractionsOutsideTheirRangeAreRefused) {
  const std::vector<std::uint8_t> labels(3, 0);
  for (const double fraction : {0.0, -1.0, 1.5, std::nan("")}) {
    EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { balanced_subset(labels, 1, fraction, 1); }),
                testing::HasSubstr("--train-fraction"));
  }
}

TEST(EpochOrder, IsAPermutationThatChangesWithSeedAndEpoch) {
  const Indices indices{3, 5, 8, 13, 21, 34, 55, 89, 144, 233};

  const Indices order = epoch_order(indices, 1, 0);

  EXPECT_TRUE(std::is_permutation(order.begin(), order.end(), indices.begin(), indices.end()));
  EXPECT_EQ(order, epoch_order(indices, 1, 0));
  EXPECT_NE(order, epoch_order(indices, 1, 1));
  EXPECT_NE(order, epoch_order(indices, 2, 0));
}

TEST(EpochOrder, ShufflesAgainWhatIsLeftAndNothingElse) {
  const Indices before = epoch_order(up_to(40), 1, 3);

  const Indices once = epoch_order(up_to(40), 1, 3, Indices{10});
  EXPECT_TRUE(std::is_permutation(once.begin(), once.end(), before.begin()));
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + 10, once.begin()));
  EXPECT_NE(once, before);

  const Indices twice = epoch_order(up_to(40), 1, 3, Indices{10, 10});
  EXPECT_TRUE(std::is_permutation(twice.begin(), twice.end(), before.begin()));
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + 10, twice.begin()));
  EXPECT_NE(twice, once);

  const Indices later = epoch_order(up_to(40), 1, 3, Indices{10, 25});
  EXPECT_TRUE(std::equal(once.begin(), once.begin() + 25, later.begin()));
  EXPECT_NE(later, once);
  EXPECT_NE(epoch_order(up_to(40), 1, 4, Indices{0}), epoch_order(up_to(40), 1, 4));
}

TEST(EpochOrder, EveryImageComesFirstEquallyOften) {
  std::vector<int> first(10);
  for (int epoch = 0; epoch < 5000; ++epoch) ++first[epoch_order(up_to(10), 1, epoch)[0]];

  // 500 expected, standard deviation sqrt(5000 * 0.1 * 0.9) = 21: five of them.
  for (const int count : first) EXPECT_NEAR(count, 500, 106);
}

TEST(ChannelStatistics, EqualTheHandNumbersOfAFewPixels) {
  Dataset dataset{{"tiny", {2, 1, 2}, 2, false}, Split::train, 3, {}, {}};
  dataset.pixels = Buffer<std::uint8_t>(12, Memory::data);
  const std::vector<std::uint8_t> pixels{0, 255, 9, 9, 99, 98, 97, 96, 255, 0, 9, 9};
  std::copy(pixels.begin(), pixels.end(), dataset.pixels.begin());

  const ChannelStatistics statistics = channel_statistics(dataset, Indices{0, 2});

  EXPECT_EQ(statistics.mean, (std::vector<float>{0.5f, 9.0f / 255}));
  EXPECT_EQ(statistics.std, (std::vector<float>{0.5f, 1.0f}));  // no spread: 1
}

TEST(ChannelStatistics, EqualATwoPassComputationInDouble) {
  const Dataset dataset =
      load_dataset(dataset_info("synthetic"), "", Split::test, Contents::images_and_labels);
  const Indices indices = up_to(dataset.size);

  const ChannelStatistics statistics = channel_statistics(dataset, indices);

  for (int channel = 0; channel < 3; ++channel) {
    double mean = 0;
    double variance = 0;
    const double count = 1024.0 * static_cast<double>(dataset.size);
    for (const std::int64_t i : indices) {
      for (int j = 0; j < 1024; ++j) mean += dataset.image(i)[channel * 1024 + j] / 255.0 / count;
    }
    for (const std::int64_t i : indices) {
      for (int j = 0; j < 1024; ++j) {
        variance += std::pow(dataset.image(i)[channel * 1024 + j] / 255.0 - mean, 2) / count;
      }
    }
    // Both are rounded to float at the end: one unit in the last place of numbers under 1.
    EXPECT_NEAR(statistics.mean[channel], mean, 6e-8);
    EXPECT_NEAR(statistics.std[channel], std::sqrt(variance), 6e-8);
  }
}

TEST(DrawCrop, WithoutAugmentationItIsTheImageItself) {
  const Crop crop = draw_crop({.statistics = {}, .augment = false, .seed = 1}, 5, 2);
  EXPECT_EQ(crop.row, 0);
  EXPECT_EQ(crop.column, 0);
  EXPECT_FALSE(crop.flip);
}

TEST(DrawCrop, RowColumnAndFlipAreDrawnInThatOrder) {
  constexpr std::uint64_t epoch = 3;
  std::set<std::tuple<int, int, bool>> draws;
  for (std::int64_t index = 0; index < 300; ++index) {
    const Crop crop = draw_crop({.statistics = {}, .augment = true, .seed = 11}, epoch, index);

    RandomStream random(11, Purpose::augmentation, (epoch << 32) + index);
    EXPECT_EQ(crop.row + 4, static_cast<int>(random.below(9)));
    EXPECT_EQ(crop.column + 4, static_cast<int>(random.below(9)));
    EXPECT_EQ(crop.flip, random.below(2) == 1);
    draws.emplace(crop.row, crop.column, crop.flip);
  }
  EXPECT_GT(draws.size(), 100u);  // of 162 possible: the choices do vary
}

TEST(DrawCrop, AnImageIsCutAnewInEachEpoch) {
  const InputTransform transform{.statistics = {}, .augment = true, .seed = 2};
  std::set<std::tuple<int, int, bool>> draws;
  for (int epoch = 0; epoch < 4; ++epoch) {
    const Crop crop = draw_crop(transform, epoch, 8);
    draws.emplace(crop.row, crop.column, crop.flip);
  }
  EXPECT_GT(draws.size(), 1u);
}

}  // namespace
}  // namespace revode
