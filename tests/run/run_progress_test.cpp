// Where a run stands: kept as attributes, and refused where no run can have counted so.
#include "revode/run/run_progress.hpp"

#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "revode/config/config.hpp"

#include "run/some_progress.hpp"
#include "support/error_text.hpp"

namespace revode {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(RunProgress, ComesBackFromItsAttributes) {
  const Attributes attributes = to_attributes(some_progress(), 7);
  expect_equal(from_attributes(attributes, "file"), some_progress());
  EXPECT_EQ(attributes.at("seed"), 7);
}

/// What runs have that met numbers that were not finite.
const std::set<std::string> of_some_runs{"skipped_steps", "skipped_in_a_row", "rewound_to",
                                         "slow_until"};

// So a checkpoint of a run without such steps is, byte for byte, what it was before they were
// counted.
TEST(RunProgress, WhatWentWrongIsLeftOutWhereNothingDid) {
  RunProgress progress = some_progress();
  progress.skipped = progress.skipped_in_a_row = progress.slow_until = 0;
  progress.rewound_to.clear();
  const Attributes attributes = to_attributes(progress, 7);
  for (const std::string& key : of_some_runs) EXPECT_FALSE(attributes.contains(key)) << key;
  expect_equal(from_attributes(attributes, "file"), progress);
}

TEST(RunProgress, TheRateIsHalvedByEachRewindForAWhile) {
  RunProgress progress;
  progress.step = 9;
  EXPECT_EQ(progress.rate_factor(), 1);
  progress.rewound_to = {4};
  progress.slow_until = 10;
  EXPECT_EQ(progress.rate_factor(), 0.5);
  progress.rewound_to = {4, 4, 8};
  EXPECT_EQ(progress.rate_factor(), 0.125);
  progress.step = 10;
  EXPECT_EQ(progress.rate_factor(), 1);
}

TEST(RunProgress, EveryMissingNumberIsNamed) {
  const Attributes whole = to_attributes(some_progress(), 7);
  for (const auto& item : whole.items()) {
    const std::string& key = item.key();
    if (key == "seed") continue;  // the config's counts
    Attributes without = whole;
    without.erase(key);
    if (!of_some_runs.contains(key)) {
      EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { from_attributes(without, "some.h5"); }),
                  AllOf(HasSubstr("some.h5"), HasSubstr("'" + key + "'")));
    }
    without[key] = "text";
    EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { from_attributes(without, "some.h5"); }),
                HasSubstr("'" + key + "'"));
  }
}

/// What from_attributes() says of a whole record with one attribute set otherwise.
std::string progress_error(const char* key, const nlohmann::json& value) {
  Attributes attributes = to_attributes(some_progress(), 7);
  attributes[key] = value;
  return error_text(ExitStatus::bad_input, [&] { from_attributes(attributes, "some.h5"); });
}

TEST(RunProgress, WhatNoRunCanHaveCountedIsRefused) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const std::int64_t above = (std::int64_t{1} << 53) + 1;

  for (const char* key :
       {"epoch", "step", "samples_seen", "epoch_correct", "epoch_samples", "out_of_range",
        "rounded_to_zero", "skipped_steps", "skipped_in_a_row", "slow_until"}) {
    for (const nlohmann::json& value :
         std::vector<nlohmann::json>{-1, 1.5, 3.0, true, "3", "\xff", nan, above, UINT64_MAX,
                                     INT64_MIN, nlohmann::json::array({1})})
      EXPECT_THAT(progress_error(key, value),
                  AllOf(HasSubstr("some.h5"), HasSubstr(fmt::format("'{}' = ", key)),
                        HasSubstr("a whole number from 0 to 2^53")))
          << key;
  }
  for (const char* key : {"learning_rate", "epoch_loss_sum", "epoch_regularization_sum"}) {
    for (const nlohmann::json& value :
         std::vector<nlohmann::json>{nan, infinity, -infinity, false, "0.1"})
      EXPECT_THAT(progress_error(key, value), HasSubstr("a finite number")) << key;
  }
  EXPECT_THAT(progress_error("learning_rate", -0.1), HasSubstr("= -0.1, expected a finite number"));
  EXPECT_THAT(progress_error("learning_rate", nan), HasSubstr("'learning_rate' = nan"));
  for (const double value : {5.0, -0.1, nan})
    EXPECT_THAT(progress_error("best_accuracy", value), HasSubstr("a number from 0 to 1"));
  EXPECT_THAT(progress_error("epoch_correct", 81),
              HasSubstr("'epoch_correct' = 81, expected at most epoch_samples = 80"));
  EXPECT_THAT(progress_error("samples_seen", 79), HasSubstr("at least epoch_samples = 80"));
  EXPECT_THAT(progress_error("samples_seen", 1000), HasSubstr("at least step = "));
  EXPECT_THAT(progress_error("epoch", 1'234'567'890'124), HasSubstr("at most step = "));
}

TEST(RunProgress, StepsGoneBackToThatNoRunCanHaveAreRefused) {
  std::string many = "1";
  for (int n = 1; n <= most_rewinds; ++n) many += ",1";
  for (const nlohmann::json& value : std::vector<nlohmann::json>{
           "", ",", "1,", ",1", "1;2", "2,1", "-1", "1.5", "1, 2", "1 ", "x",
           "99999999999999999999", "1234567890124", many, 4, 0.5, true, nullptr})
    EXPECT_THAT(progress_error("rewound_to", value),
                AllOf(HasSubstr("some.h5"), HasSubstr("'rewound_to'")))
        << value;
  EXPECT_EQ(progress_error("rewound_to", "0"), "");
  EXPECT_EQ(progress_error("rewound_to", "5,5,1234567890123"), "");
  EXPECT_THAT(progress_error("skipped_in_a_row", 22), HasSubstr("at most skipped_steps = 21"));
  EXPECT_THAT(progress_error("skipped_steps", 1'234'567'890'124), HasSubstr("at most step = "));
}

TEST(RunProgress, WhatARunCanHaveCountedIsTaken) {
  for (const char* key : {"learning_rate", "best_accuracy", "epoch_loss_sum"})
    EXPECT_EQ(progress_error(key, 1), "") << key;  // whole numbers are numbers
  EXPECT_EQ(progress_error("samples_seen", std::uint64_t{1} << 53), "");
  EXPECT_EQ(error_text(ExitStatus::bad_input,
                       [] { from_attributes(to_attributes(RunProgress{}, 0), "some.h5"); }),
            "");
}

}  // namespace
}  // namespace revode
