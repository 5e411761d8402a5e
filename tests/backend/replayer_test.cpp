#include "backend/cuda/replayer.hpp"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "backend/cuda/host_device.hpp"

namespace revode::cuda {
namespace {

class ReplayerTest : public testing::Test {
 protected:
  ReplayerTest() : stream_(device_.make_stream()) {
    array_ = static_cast<float*>(device_.allocate(num_values * sizeof(float), stream_));
    device_.zero(array_, num_values * sizeof(float), stream_);
  }
  ~ReplayerTest() override { device_.release(array_, num_values * sizeof(float), stream_); }

  /// Adds `num` rows of the array to the last one, with this factor.
  std::vector<Task> piece(float factor, int num = 3) const {
    std::vector<Task> tasks;
    for (int i = 0; i < num; ++i)
      tasks.push_back(Kernel(AddScaled{row, factor, array_ + i * row, array_ + num_values - row}));
    return tasks;
  }
  /// The first rows become ones, and the last one zeros.
  void reset() {
    std::vector<float> values(num_values, 1);
    std::fill(values.end() - row, values.end(), 0.0f);
    device_.copy_in(array_, values.data(), num_values * sizeof(float), stream_);
    finish();
  }
  float sum() {
    std::vector<float> values(num_values);
    device_.copy_out(values.data(), array_, num_values * sizeof(float), stream_);
    finish();
    return values.back();
  }
  void finish() {
    const Event done = device_.make_event();
    device_.record(done, stream_);
    device_.synchronize(done);
  }

  static constexpr int row = 16, num_values = 8 * row;
  HostDevice device_{RunOrder::random};
  Stream stream_;
  float* array_ = nullptr;
};

TEST_F(ReplayerTest, RecordsAPieceTheSecondTimeAndReplaysIt) {
  Replayer replayer(device_, stream_);
  reset();
  replayer.run(piece(2));
  EXPECT_EQ(replayer.counts().launched, 3);
  EXPECT_EQ(replayer.counts().num_graphs, 0);
  replayer.run(piece(2));
  replayer.run(piece(2));
  EXPECT_EQ(replayer.counts().launched, 3);
  EXPECT_EQ(replayer.counts().num_graphs, 1);
  EXPECT_EQ(replayer.counts().num_replays, 2);
  EXPECT_EQ(replayer.counts().replayed, 6);
  EXPECT_EQ(sum(), 18);
}

// A number that changes from step to step, such as a rate, makes another piece of it.
TEST_F(ReplayerTest, KnowsAPieceByItsArguments) {
  Replayer replayer(device_, stream_);
  reset();
  for (const float factor : {1.0f, 2.0f, 4.0f, 2.0f}) replayer.run(piece(factor));
  EXPECT_EQ(replayer.counts().num_replays, 1);
  EXPECT_EQ(sum(), 27);
}

TEST_F(ReplayerTest, ShortPiecesAreNotWorthAGraph) {
  Replayer replayer(device_, stream_);
  reset();
  for (int time = 0; time < 4; ++time) replayer.run(piece(1, 2));
  EXPECT_EQ(replayer.counts().launched, 8);
  EXPECT_EQ(replayer.counts().num_graphs, 0);
  EXPECT_EQ(sum(), 8);
}

TEST_F(ReplayerTest, KeepsThePiecesThatCameLast) {
  Replayer replayer(device_, stream_, 9);
  reset();
  const auto play = [&](float factor) {
    const auto before = replayer.counts().num_replays;
    replayer.run(piece(factor));
    return replayer.counts().num_replays > before;
  };
  for (const float factor : {1.0f, 2.0f, 3.0f}) EXPECT_FALSE(play(factor));
  for (const float factor : {1.0f, 2.0f, 3.0f, 1.0f}) EXPECT_TRUE(play(factor));
  EXPECT_EQ(replayer.counts().num_graphs, 3);
  EXPECT_FALSE(play(4));  // in place of 2
  EXPECT_EQ(replayer.counts().num_graphs, 2);
  EXPECT_TRUE(play(1));
  EXPECT_TRUE(play(3));
  EXPECT_FALSE(play(2));
  EXPECT_EQ(sum(), 3 * (4 * 1 + 3 * 2 + 3 * 3 + 4));
}

// The library's memory moves with the first convolution of a larger batch.
TEST_F(ReplayerTest, RecordsAnewWhereMemoryHasMoved) {
  Replayer replayer(device_, stream_);
  reset();
  const auto convolve = [&](int batch) {
    return Task(Convolution{.batch = batch,
                            .height = 1,
                            .width = 1,
                            .in_channels = 1,
                            .out_channels = 1,
                            .x = array_,
                            .kernel = array_ + row,
                            .y = array_ + 2 * row});
  };
  std::vector<Task> tasks = piece(1);
  tasks.push_back(convolve(1));
  for (int time = 0; time < 3; ++time) replayer.run(tasks);
  replayer.run({convolve(4)});
  replayer.run(tasks);
  EXPECT_EQ(replayer.counts().num_graphs, 1);
  EXPECT_EQ(replayer.counts().num_replays, 3);
  EXPECT_EQ(sum(), 12);
}

}  // namespace
}  // namespace revode::cuda
