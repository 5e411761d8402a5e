#include "revode/model/gradient_sums.hpp"

#include <gtest/gtest.h>

namespace revode {
namespace {

// More than two blocks of the conversion, and a part of one.
constexpr std::size_t size = 1234;

TEST(GradientSums, BecomeFloatsInPlace) {
  const auto backend = make_reference_backend<float>();
  GradientSums<float> gradient(size, *backend);
  for (int round = 0; round < 2; ++round) {
    gradient.clear();
    for (std::size_t i = 0; i < size; ++i)
      gradient.sums()[i] += to_exact(static_cast<double>(i) - 600) + round;

    gradient.finish();

    EXPECT_EQ(gradient.out_of_range(), std::nullopt);

    ASSERT_EQ(gradient.read_values().size(), size);
    for (std::size_t i = 0; i < size; ++i)
      EXPECT_EQ(gradient.read_values()[i],
                from_exact<float>(to_exact(static_cast<double>(i) - 600) + round));
  }
}

TEST(GradientSums, NameTheLastSumThatIsOutOfRange) {
  const auto backend = make_reference_backend<float>();
  GradientSums<float> gradient(size, *backend);
  gradient.clear();
  gradient.sums()[3] = ExactSum{1} << 53;
  gradient.sums()[700] = -(ExactSum{1} << 53);
  gradient.sums()[701] = (ExactSum{1} << 53) - 1;

  gradient.finish();

  EXPECT_EQ(gradient.out_of_range(), std::optional<std::size_t>(700));
}

}  // namespace
}  // namespace revode
