// Mini-batches cut from a split: which samples, in which order, on which rank, and by any backend
// the same images.
#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/core/error.hpp"
#include "revode/train/data_feed.hpp"

#include "support/numbers.hpp"
#include "support/plain_images.hpp"
#include "support/test_backends.hpp"

namespace revode {
namespace {

constexpr std::size_t image_size = 3 * 32 * 32;

class Feed : public testing::Test {
 protected:
  Communicator world_{MPI_COMM_WORLD};
  Grid grid_{world_, world_.size(), 1};
  Config config_;
};

class FeedOf : public Feed, public testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Backends, FeedOf, testing::ValuesIn(test_backend_names()),
                         [](const auto& of) { return of.param; });

// All micro-batches are asked for before any is looked at.
TEST_P(FeedOf, MicroBatchesCoverTheSamplesInOrder) {
  DataFeed feed(config_, Split::test, 1, grid_);
  const Dataset data =
      load_dataset(dataset_info("synthetic"), "", Split::test, Contents::images_and_labels);
  const std::shared_ptr<Backend<float>> backend = make_test_backend(GetParam(), 2);
  const std::vector<std::int64_t> indices{7, 999, 0, 7, 500, 3, 2, 1, 41, 42, 43};
  for (const bool augment : {true, false}) {
    const InputTransform transform{
        .statistics = {{0.5f, 0.4f, 0.3f}, {0.2f, 0.25f, 0.5f}}, .augment = augment, .seed = 3};
    if (world_.is_root()) feed.set_transform(transform, backend);

    const MiniBatchSource source = feed.mini_batch(indices, 5, 4);

    EXPECT_EQ(source.micro_batches, (std::vector{3, 3, 3, 2}));  // larger first
    EXPECT_EQ(source.size(), 11);
    std::vector<StagedBuffer<float>> images(4);
    for (int m = 0; m < 4 && world_.is_root(); ++m) {
      images[m].ensure(source.micro_batches[m] * image_size, Memory::workspace, *backend);
      source.images(m, *backend, images[m].data());
    }
    std::size_t sample = 0;
    for (int m = 0; m < 4; ++m) {
      const auto labels = source.labels(m);
      ASSERT_EQ(labels.size(), static_cast<std::size_t>(source.micro_batches[m]));
      const auto own = std::span(indices).subspan(sample, labels.size());
      for (std::size_t n = 0; n < labels.size(); ++n) EXPECT_EQ(labels[n], data.labels[own[n]]);
      if (world_.is_root()) {
        EXPECT_EQ(num_differing(images[m].read(), plain_images(data, own, transform, 5)), 0u) << m;
      }
      sample += labels.size();
    }
  }
}

TEST_F(Feed, PixelsAreCopiedOnlyWhereTheHostCannotShareThem) {
  DataFeed feed(config_, Split::test, 1, grid_);
  if (!world_.is_root()) return;
  const InputTransform transform{.statistics = {{0, 0, 0}, {1, 1, 1}}, .augment = false, .seed = 1};
  const std::int64_t before = memory_use().current(Memory::data);
  const auto more = [&] { return memory_use().current(Memory::data) - before; };
  const auto apart = [] { return device_memory_use().current(Memory::data); };

  feed.set_transform(transform, make_backend("cpu", 1));
  EXPECT_LT(more(), 1000);
  EXPECT_EQ(apart(), 0);
  feed.set_transform(transform, make_test_backend("deferred", 1));
  EXPECT_LT(more(), 1000);
  EXPECT_GE(apart(), 1000 * static_cast<std::int64_t>(image_size));
  feed.set_transform(transform, make_test_backend("deferred", 1));
  EXPECT_LT(apart(), 1001 * static_cast<std::int64_t>(image_size));
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
