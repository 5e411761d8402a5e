// Mini-batches cut from a split: which samples, in which order, on which rank.
#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "revode/core/error.hpp"
#include "revode/train/data_feed.hpp"

#include "support/numbers.hpp"

namespace revode {
namespace {

constexpr std::size_t image_size = 3 * 32 * 32;

class Feed : public testing::Test {
 protected:
  Communicator world_{MPI_COMM_WORLD};
  Grid grid_{world_, world_.size(), 1};
  Config config_;
};

TEST_F(Feed, MicroBatchesCoverTheSamplesInOrder) {
  DataFeed feed(config_, Split::test, 1, grid_);
  const Dataset data = load_dataset("synthetic", "", Split::test, Contents::images_and_labels);
  const InputTransform transform{
      .statistics = {{0.5f, 0.4f, 0.3f}, {0.2f, 0.25f, 0.5f}}, .augment = true, .seed = 3};
  feed.set_transform(transform);
  const std::vector<std::int64_t> indices{7, 999, 0, 7, 500, 3, 2, 1, 41, 42, 43};

  const MiniBatchSource source = feed.mini_batch(indices, 5, 4);

  EXPECT_EQ(source.micro_batches, (std::vector{3, 3, 3, 2}));  // larger first
  EXPECT_EQ(source.size(), 11);
  std::size_t sample = 0;
  for (int m = 0; m < 4; ++m) {
    const auto labels = source.labels(m);
    ASSERT_EQ(labels.size(), static_cast<std::size_t>(source.micro_batches[m]));
    std::vector<float> images(labels.size() * image_size), expected(image_size);
    if (world_.is_root()) source.images(m, images.data());
    for (std::size_t n = 0; n < labels.size(); ++n, ++sample) {
      EXPECT_EQ(labels[n], data.labels[indices[sample]]);
      if (!world_.is_root()) continue;
      fill_images(data, std::span(indices).subspan(sample, 1), transform, 5, expected.data());
      EXPECT_EQ(num_differing(std::span(images).subspan(n * image_size, image_size), expected), 0u)
          << "sample " << sample;
    }
  }
}

TEST_F(Feed, AMiniBatchOutlivesTheListItWasMadeFrom) {
  DataFeed feed(config_, Split::test, 1, grid_);
  MiniBatchSource source;
  {
    std::vector<std::int64_t> indices{4, 5};
    source = feed.mini_batch(indices, 0, 1);
    indices.assign(2, 9);
  }
  EXPECT_EQ(source.labels(0)[0], feed.label(4));
  EXPECT_EQ(source.labels(0)[1], feed.label(5));
}

TEST_F(Feed, AFractionIsBalancedAndTheSameOnEveryRank) {
  const DataFeed feed(config_, Split::train, 0.05, grid_);
  EXPECT_EQ(feed.size(), 400);  // of 8000
  std::array<int, 10> count{};
  for (const std::int64_t index : feed.indices()) ++count[feed.label(index)];
  EXPECT_EQ(*std::min_element(count.begin(), count.end()), 40);
  EXPECT_EQ(*std::max_element(count.begin(), count.end()), 40);
  EXPECT_TRUE(std::is_sorted(feed.indices().begin(), feed.indices().end()));
  const std::int64_t sum = std::accumulate(feed.indices().begin(), feed.indices().end(), 0L);
  for (const std::int64_t other : world_.all_gather(sum)) EXPECT_EQ(other, sum);
}

TEST_F(Feed, OnlyTheFirstRankHoldsPixels) {
  const std::int64_t before = memory_use().current(Memory::data);
  const DataFeed feed(config_, Split::test, 1, grid_);
  const std::int64_t bytes = memory_use().current(Memory::data) - before;
  if (world_.is_root()) {
    EXPECT_GE(bytes, 1000 * static_cast<std::int64_t>(image_size));
    EXPECT_EQ(feed.statistics().mean.size(), 3u);
  } else {
    EXPECT_LT(bytes, 10 * 1000);
  }
}

TEST_F(Feed, AFolderThatOnlyTheFirstRankMissesFailsOnEveryRank) {
  config_.dataset = "cifar10";
  config_.data_dir = "/nonexistent";
  EXPECT_THROW(DataFeed(config_, Split::train, 1, grid_), Error);
}

}  // namespace
}  // namespace revode
