// Sums of gradients in 64-bit integers at the edges of their ranges: the definition, and the
// vectorised kernels against it.
#include "revode/backend/exact_sum.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "backend/cpu/segment_kernels.hpp"
#include "backend/cpu_backend_test.hpp"

namespace revode {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
const float below_2048 = std::nextafter(2048.0f, 0.0f);  // of a contribution

TEST(ExactSum, RoundsToTheNearestMultipleAndTiesToEven) {
  const auto rounded = [](double units) { return to_exact(units * 0x1p-40); };

  EXPECT_EQ(rounded(0.5), 0);
  EXPECT_EQ(rounded(1.5), 2);
  EXPECT_EQ(rounded(2.5), 2);
  EXPECT_EQ(rounded(-1.5), -2);
  EXPECT_EQ(rounded(-2.5), -2);
  EXPECT_EQ(rounded(2.5000001), 3);
  EXPECT_EQ(rounded(-0.0), 0);
  EXPECT_EQ(to_exact(0x1p-17f), std::int64_t{1} << 23);
}

// From 2^-17 on every float is a multiple of 2^-40: it comes back as it was.
TEST(ExactSum, KeepsEveryBitOfEntriesThatAreNotTiny) {
  for (float value = 0x1.fffffep-17f; value < 2048; value *= 3.0000002f)
    EXPECT_EQ(from_exact<float>(to_exact(value)), value);
}

TEST(ExactSum, ContributionsAreBelow2To11) {
  EXPECT_TRUE(is_contribution(below_2048));
  EXPECT_TRUE(is_contribution(-below_2048));
  EXPECT_FALSE(is_contribution(2048.0f));
  EXPECT_FALSE(is_contribution(-2048.0f));
  EXPECT_FALSE(is_contribution(infinity));
  EXPECT_FALSE(is_contribution(not_a_number));
}

TEST(ExactSum, FourThousandAndNinetySixOfTheLargestFit) {
  ExactSum up = 0, down = 0;
  const float values[] = {below_2048, -below_2048};
  for (int i = 0; i < most_contributions; ++i) {
    ASSERT_TRUE(add_contributions(&values[0], 1, &up));
    ASSERT_TRUE(add_contributions(&values[1], 1, &down));
  }

  EXPECT_EQ(up, most_contributions * to_exact(below_2048));
  EXPECT_EQ(down, -up);
  EXPECT_GT(up, std::numeric_limits<std::int64_t>::max() / 10 * 9);  // no room was wasted
  EXPECT_FALSE(is_in_range(up));
}

TEST(ExactSum, SumsAreBelow2To13) {
  constexpr ExactSum limit = ExactSum{1} << 53;
  EXPECT_TRUE(is_in_range(limit - 1));
  EXPECT_TRUE(is_in_range(1 - limit));
  EXPECT_FALSE(is_in_range(limit));
  EXPECT_FALSE(is_in_range(-limit));
}

// Integer to double is exact, so that double to float is the only rounding: just above the middle
// of two floats goes up, where rounding twice could take the even one below.
TEST(ExactSum, GoesBackToTheNearestFloat) {
  const ExactSum middle = to_exact(1.0) + (ExactSum{1} << 16);  // 1 + 2^-24
  EXPECT_EQ(from_exact<float>(middle), 1.0f);
  EXPECT_EQ(from_exact<float>(middle + 1), std::nextafter(1.0f, 2.0f));
}

// Every length has another tail; every place of it, in the vector's body and behind, meets every
// kind of value.
TEST_P(CpuBackend, AddsToExactSumsAsTheDefinitionDoes) {
  const std::vector<float> kinds = {0.0f,      -0.0f,      1.5f,         -0x1p-41f, 0x1.8p-40f,
                                    0x1p-149f, below_2048, -below_2048,  0x1p-17f,  -3.25e-8f,
                                    2048.0f,   -2048.0f,   not_a_number, infinity,  -infinity};
  for (std::size_t size = 0; size <= 40; ++size) {
    for (std::size_t shift = 0; shift < kinds.size(); ++shift) {
      std::vector<float> values(size);
      for (std::size_t i = 0; i < size; ++i) values[i] = kinds[(i + shift) % kinds.size()];
      // What is out of range comes in some runs only, so that both answers are seen.
      if (shift % 2 == 0)
        for (float& value : values)
          if (!is_contribution(value)) value = 0.75f;
      std::vector<ExactSum> got(size, 12345), expected = got;

      const bool fits = cpu::add_to_exact_sums(values.data(), size, got.data());

      EXPECT_EQ(fits, add_contributions(values.data(), size, expected.data())) << size;
      EXPECT_EQ(got, expected) << size;
    }
  }
}

}  // namespace
}  // namespace revode
