// The counter-based generator: published vectors, independence of streams, moments of what is drawn
// from it.
#include "revode/core/random.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace revode {
namespace {

using Counter = std::array<std::uint32_t, 4>;
using Key = std::array<std::uint32_t, 2>;

// Known answers of philox4x32-10 from the authors' Random123 distribution (kat_vectors).
TEST(Philox, GivesThePublishedVectors) {
  constexpr std::uint32_t ones = 0xffffffff;

  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
            (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, Key{0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

std::vector<std::uint32_t> draw(RandomStream stream, int count) {
  std::vector<std::uint32_t> bits(count);
  for (std::uint32_t& value : bits) value = stream.bits();
  return bits;
}

// What a seed means is kept for ever: the stream walks the counter's first word, purpose and index
// are the others, the seed is the key.
TEST(RandomStream, IsPhiloxOfPlacePurposeAndIndexUnderTheSeed) {
  const std::uint64_t seed = 0x0123456789abcdef, index = 0xfedcba9876543210;

  const std::vector<std::uint32_t> bits = draw(RandomStream(seed, Purpose::shuffle, index), 12);

  for (std::uint32_t block = 0; block < 3; ++block) {
    const Counter expected =
        philox({block, static_cast<std::uint32_t>(Purpose::shuffle), 0x76543210, 0xfedcba98},
               {0x89abcdef, 0x01234567});
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), bits.begin() + 4 * block)) << block;
  }
}

TEST(RandomStream, SeedPurposeAndIndexEachMakeAnotherStream) {
  constexpr int count = 64;
  std::set<std::uint32_t> seen;
  std::size_t drawn = 0;
  const auto add = [&](std::uint64_t seed, Purpose purpose, std::uint64_t index) {
    for (const std::uint32_t value : draw(RandomStream(seed, purpose, index), count))
      seen.insert(value);
    drawn += count;
  };
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32})
    for (const Purpose purpose : {Purpose::kernel, Purpose::augmentation})
      for (const std::uint64_t index : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32})
        add(seed, purpose, index);

  // 1152 draws out of 2^32 meet by chance with probability 1.5e-4; overlapping streams would share
  // dozens.
  EXPECT_EQ(seen.size(), drawn);
}

TEST(RandomStream, ACopyGoesOnLikeTheOriginal) {
  RandomStream original(5, Purpose::check, 3);
  original.normal();  // leaves a spare behind
  RandomStream copy = original;

  for (int i = 0; i < 10; ++i) EXPECT_EQ(copy.normal(), original.normal());
}

struct Moments {
  double mean = 0, variance = 0, fourth = 0, least = 1e300, most = -1e300;
};

template <typename Draw>
Moments moments(int count, Draw&& draw_one) {
  Moments result;
  for (int i = 0; i < count; ++i) {
    const double x = draw_one();
    result.mean += x / count;
    result.variance += x * x / count;
    result.fourth += x * x * x * x / count;
    result.least = std::min(result.least, x);
    result.most = std::max(result.most, x);
  }
  result.variance -= result.mean * result.mean;
  return result;
}

constexpr int num_draws = 200'000;
// Standard errors of mean, variance and fourth moment of what is drawn here are below 0.0023,
// 0.0032 and 0.022: five of each.
constexpr double mean_tolerance = 0.012, variance_tolerance = 0.016, fourth_tolerance = 0.11;

TEST(RandomStream, UniformHasItsMomentsAndBounds) {
  RandomStream stream(1, Purpose::check, 0);

  const Moments got = moments(num_draws, [&] { return stream.uniform(); });

  EXPECT_NEAR(got.mean, 0.5, mean_tolerance);
  EXPECT_NEAR(got.variance, 1.0 / 12, variance_tolerance);
  EXPECT_GE(got.least, 0);
  EXPECT_LT(got.most, 1);
  EXPECT_LT(got.least, 1e-3);
  EXPECT_GT(got.most, 1 - 1e-3);
}

TEST(RandomStream, UniformOfAnIntervalStaysInside) {
  RandomStream stream(1, Purpose::check, 1);

  const Moments got = moments(num_draws, [&] { return stream.uniform(-3, -1); });

  EXPECT_NEAR(got.mean, -2, mean_tolerance);
  EXPECT_GE(got.least, -3);
  EXPECT_LT(got.most, -1);
}

TEST(RandomStream, NormalHasTheMomentsOfTheNormalDistribution) {
  RandomStream stream(1, Purpose::check, 2);

  const Moments got = moments(num_draws, [&] { return stream.normal(); });

  EXPECT_NEAR(got.mean, 0, mean_tolerance);
  EXPECT_NEAR(got.variance, 1, variance_tolerance);
  EXPECT_NEAR(got.fourth, 3, fourth_tolerance);
  EXPECT_LT(got.least, -3.5);  // or the tails would be missing
  EXPECT_GT(got.most, 3.5);
}

TEST(RandomStream, TruncatedNormalEndsAtTwo) {
  RandomStream stream(1, Purpose::check, 3);
  // 1 - 2 a phi(a) / (2 Phi(a) - 1) at a = 2
  const double density = std::exp(-2.0) / std::sqrt(2 * std::acos(-1.0));
  const double variance = 1 - 4 * density / std::erf(std::sqrt(2.0));

  const Moments got = moments(num_draws, [&] { return stream.truncated_normal(); });

  EXPECT_NEAR(got.mean, 0, mean_tolerance);
  EXPECT_NEAR(got.variance, variance, variance_tolerance);
  EXPECT_GE(got.least, -2);
  EXPECT_LE(got.most, 2);
  EXPECT_LT(got.least, -1.99);
  EXPECT_GT(got.most, 1.99);
}

TEST(RandomStream, BelowReachesEveryValueEquallyOften) {
  RandomStream stream(1, Purpose::check, 4);
  constexpr int bound = 7;
  std::vector<int> hits(bound, 0);

  for (int i = 0; i < num_draws; ++i) {
    const std::uint32_t value = stream.below(bound);
    ASSERT_LT(value, static_cast<std::uint32_t>(bound));
    ++hits[value];
  }

  const double expected = static_cast<double>(num_draws) / bound;
  for (const int count : hits) EXPECT_NEAR(count, expected, 5 * std::sqrt(expected));
}

// Without rejection the lower third of these values would be twice as likely as the rest.
TEST(RandomStream, BelowHasNoBiasForLargeBounds) {
  RandomStream stream(1, Purpose::check, 5);
  constexpr std::uint32_t bound = 3u << 30;
  int lower = 0;

  for (int i = 0; i < num_draws; ++i) lower += stream.below(bound) < bound / 3;

  EXPECT_NEAR(lower, num_draws / 3.0, 5 * std::sqrt(num_draws * 2.0 / 9));
}

TEST(RandomStream, BelowOneIsZero) {
  RandomStream stream(1, Purpose::check, 6);

  for (int i = 0; i < 100; ++i) EXPECT_EQ(stream.below(1), 0u);
}

}  // namespace
}  // namespace revode
