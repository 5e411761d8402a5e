// Errors: message, exit status, scope.
#include "revode/core/error.hpp"

#include <gtest/gtest.h>

#include "support/error_text.hpp"

namespace revode {
namespace {

TEST(Error, InputErrorsLeaveWithStatusTwo) {
  const Error error = input_error("--depth {}: expected at least {}", 3, 26);

  EXPECT_STREQ(error.what(), "--depth 3: expected at least 26");
  EXPECT_EQ(static_cast<int>(error.status()), 2);
  EXPECT_EQ(error.scope(), ErrorScope::this_rank);
}

TEST(Error, RunErrorsLeaveWithStatusOne) {
  const Error error = run_error("the disk is full after {} bytes", 17);

  EXPECT_STREQ(error.what(), "the disk is full after 17 bytes");
  EXPECT_EQ(static_cast<int>(error.status()), 1);
}

TEST(Error, KeepsItsScope) {
  const Error error(ExitStatus::stopped, "stopped", ErrorScope::all_ranks);

  EXPECT_EQ(static_cast<int>(error.status()), 75);
  EXPECT_EQ(error.scope(), ErrorScope::all_ranks);
}

TEST(Require, ThrowsOnlyWhereTheConditionFails) {
  const auto require_even = [](int n) { REVODE_REQUIRE(n % 2 == 0, "{} is odd", n); };

  EXPECT_EQ(error_text(ExitStatus::bad_input, [&] { require_even(4); }), "");
  EXPECT_EQ(error_text(ExitStatus::bad_input, [&] { require_even(5); }), "5 is odd");
}

TEST(Require, EvaluatesItsConditionOnce) {
  int evaluated = 0;
  REVODE_REQUIRE(++evaluated > 0, "never");

  EXPECT_EQ(evaluated, 1);
}

}  // namespace
}  // namespace revode
