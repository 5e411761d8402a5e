// Digests of arrays: what changes them, and that messages carry theirs.
#include "revode/core/digest.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "revode/core/digest_terms.hpp"

namespace revode {
namespace {

std::vector<float> some_values(std::size_t size) {
  std::vector<float> values(size);
  std::iota(values.begin(), values.end(), 0.5f);
  return values;
}

std::uint64_t digest(const std::vector<float>& values) {
  return digest_of(std::span<const float>(values));
}

void flip(std::vector<float>& values, std::size_t bit) {
  auto bits = std::bit_cast<std::uint32_t>(values[bit / 32]);
  bits ^= std::uint32_t{1} << (bit % 32);
  std::memcpy(&values[bit / 32], &bits, sizeof(bits));
}

TEST(Digest, EveryBitChangesIt) {
  for (const std::size_t size : {1, 2, 15, 16, 17, 31, 33, 100}) {
    std::vector<float> values = some_values(size);
    std::set<std::uint64_t> seen{digest(values)};
    for (std::size_t bit = 0; bit < 32 * size; ++bit) {
      flip(values, bit);
      EXPECT_TRUE(seen.insert(digest(values)).second) << size << " floats, bit " << bit;
      flip(values, bit);
    }
  }
}

// A product carries the highest bit no further: two of them must not cancel out in the sum. Nor
// must other bits.
TEST(Digest, TwoBitsOfAPlaceDoNotCancelOut) {
  for (std::vector<float> values : {some_values(64), std::vector<float>(64)}) {
    for (std::size_t bit = 0; bit < 32; ++bit) {
      std::set<std::uint64_t> seen{digest(values)};
      for (std::size_t i = 0; i < values.size(); ++i) {
        for (std::size_t j = 0; j < i; ++j) {
          flip(values, 32 * i + bit);
          flip(values, 32 * j + bit);
          EXPECT_TRUE(seen.insert(digest(values)).second) << i << ", " << j << ", bit " << bit;
          flip(values, 32 * i + bit);
          flip(values, 32 * j + bit);
        }
      }
    }
  }
}

// Devices add them up in whatever order.
TEST(Digest, IsTheSumOfItsTermsFromTheBackToo) {
  const std::vector<float> values = some_values(1000);
  const std::span<const std::byte> bytes = std::as_bytes(std::span(values));
  for (std::size_t size = 0; size <= bytes.size(); size += size < 100 ? 1 : 97) {
    std::vector<std::uint64_t> words((size + 7) / 8);
    if (size > 0) std::memcpy(words.data(), bytes.data(), size);
    std::uint64_t sum = 0;
    for (std::size_t i = words.size(); i > 0; --i) sum += digest_term(words[i - 1], i);
    EXPECT_EQ(digest_of(bytes.first(size)), sum + digest_term(size, 0)) << size;
  }
}

TEST(Digest, ChangesWithTheOrderAndTheLengthOfZeros) {
  std::vector<float> values = some_values(40);
  const std::uint64_t before = digest(values);
  std::swap(values[3], values[19]);
  EXPECT_NE(digest(values), before);

  std::set<std::uint64_t> seen;
  for (std::size_t size = 0; size < 100; ++size)
    EXPECT_TRUE(seen.insert(digest(std::vector<float>(size))).second) << size;
}

TEST(Digest, DoesNotDependOnWhereTheArrayLies) {
  const std::vector<float> values = some_values(37);
  std::vector<std::byte> bytes(values.size() * sizeof(float) + 8);
  for (std::size_t shift = 0; shift < 8; ++shift) {
    std::memcpy(bytes.data() + shift, values.data(), values.size() * sizeof(float));
    EXPECT_EQ(digest_of(std::span<const std::byte>(bytes).subspan(shift, 37 * sizeof(float))),
              digest(values));
  }
}

TEST(Digest, AMessageIsSealedUntilABitChanges) {
  std::vector<float> message = some_values(10 + digest_floats);
  seal(message);
  EXPECT_TRUE(is_sealed(message));
  for (std::size_t bit = 0; bit < 32 * message.size(); ++bit) {
    flip(message, bit);
    EXPECT_FALSE(is_sealed(message)) << bit;
    flip(message, bit);
  }
  EXPECT_TRUE(is_sealed(message));
}

TEST(Digest, AWrappingSumIsKeptByAnyGrouping) {
  constexpr std::int64_t large = std::numeric_limits<std::int64_t>::max();
  const std::array<std::int64_t, 4> values{large, -3, large, 7};
  const std::span<const std::int64_t> all(values);
  EXPECT_EQ(wrapping_sum(all), wrapping_sum(all.first(1)) + wrapping_sum(all.last(3)));
  EXPECT_EQ(wrapping_sum(all), 2u);
}

}  // namespace
}  // namespace revode
