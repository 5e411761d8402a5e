// Owning arrays: zeroed, aligned, counted by what they are for.
#include "revode/core/buffer.hpp"

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

#include <gtest/gtest.h>

namespace revode {
namespace {

std::int64_t held(Memory category) { return memory_use().current(category); }

TEST(Buffer, IsZeroedAlsoWhereMemoryIsUsedAgain) {
  for (int round = 0; round < 3; ++round) {
    Buffer<float> buffer(1000, Memory::workspace);
    EXPECT_TRUE(std::all_of(buffer.begin(), buffer.end(), [](float x) { return x == 0; }));
    std::fill(buffer.begin(), buffer.end(), 7.0f);
  }
}

TEST(Buffer, IsAlignedToCacheLines) {
  for (const std::size_t size : {1, 3, 17, 1000}) {
    const Buffer<float> buffer(size, Memory::workspace);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u) << size;
  }
}

TEST(Buffer, IsCountedUnderItsCategoryAlone) {
  const MemoryUse before = memory_use();
  const Buffer<double> buffer(100, Memory::stash);
  const MemoryUse after = memory_use();

  for (int i = 0; i < num_memory_categories; ++i) {
    const bool mine = i == static_cast<int>(Memory::stash);
    EXPECT_EQ(after.current_bytes[i] - before.current_bytes[i], mine ? 800 : 0) << i;
  }
}

TEST(Buffer, IsForgottenAtTheEndOfItsLifeButItsPeakIsNot) {
  const std::int64_t before = held(Memory::momentum);
  { const Buffer<float> buffer(1'000'000, Memory::momentum); }

  EXPECT_EQ(held(Memory::momentum), before);
  EXPECT_GE(memory_use().peak(Memory::momentum), before + 4'000'000);
}

TEST(Buffer, MovesWithItsBytesAndLeavesAnEmptyOne) {
  const std::int64_t before = held(Memory::gradients);
  Buffer<float> source(10, Memory::gradients);
  source[3] = 5;
  const float* data = source.data();

  Buffer<float> target(std::move(source));

  EXPECT_EQ(target.data(), data);
  EXPECT_EQ(target.size(), 10u);
  EXPECT_EQ(target.bytes(), 40u);
  EXPECT_EQ(target[3], 5);
  EXPECT_EQ(source.size(), 0u);  // what a move leaves is part of the contract
  EXPECT_EQ(source.data(), nullptr);
  EXPECT_EQ(held(Memory::gradients), before + 40);
}

TEST(Buffer, AssignmentReleasesWhatWasHeld) {
  const std::int64_t before_weights = held(Memory::weights), before_data = held(Memory::data);
  Buffer<float> buffer(10, Memory::weights);

  buffer = Buffer<float>(20, Memory::data);

  EXPECT_EQ(held(Memory::weights), before_weights);
  EXPECT_EQ(held(Memory::data), before_data + 80);
  buffer = Buffer<float>();
  EXPECT_EQ(held(Memory::data), before_data);
}

TEST(Buffer, EveryCategoryHasAName) {
  std::set<std::string_view> names;
  for (int i = 0; i < num_memory_categories; ++i) names.insert(to_string(static_cast<Memory>(i)));

  EXPECT_EQ(names.size(), static_cast<std::size_t>(num_memory_categories));
  EXPECT_EQ(names.count(""), 0u);
}

TEST(Buffer, OwnsTheArrayThatItGotInExchange) {
  const std::int64_t before = memory_use().current(Memory::stash);
  {
    Buffer<float> one(10, Memory::stash), other(10, Memory::stash);
    other[3] = 7;
    float* const of_one = one.data();
    one.exchange(other.data());
    other.exchange(of_one);

    EXPECT_EQ(one[3], 7);
    EXPECT_EQ(other[3], 0);
  }
  EXPECT_EQ(memory_use().current(Memory::stash), before);
}

TEST(Buffer, GrowsWithoutKeepingTheOldArrayBeside) {
  Buffer<float> buffer(10, Memory::stash);
  buffer[3] = 7;
  const float* before = buffer.data();
  buffer.ensure(5, Memory::stash);
  EXPECT_EQ(buffer.data(), before);
  EXPECT_EQ(buffer[3], 7);

  buffer.ensure(30, Memory::stash);

  EXPECT_EQ(buffer.size(), 30u);
  EXPECT_EQ(buffer[3], 0);
}

}  // namespace
}  // namespace revode
