// When a run must save: by hand numbers, without a clock.
#include "revode/run/time_limit.hpp"

#include <gtest/gtest.h>

#include "revode/config/config.hpp"

namespace revode {
namespace {

TEST(TimeLimit, NoneNeverEnds) {
  TimeLimit limit;
  limit.note_round(1e6);
  EXPECT_FALSE(limit.allows_one_round_only(1e9));
}

// 100 s; a save lasts 3 s and may take 6, a second is spare: 93 s for rounds.
TEST(TimeLimit, LeavesTimeForTheLongestRoundAndTwiceTheLongestSave) {
  TimeLimit limit(100, 0);
  limit.note_round(10);
  limit.note_round(4);
  limit.note_save(3);
  limit.note_save(1);

  EXPECT_FALSE(limit.allows_one_round_only(73));
  EXPECT_TRUE(limit.allows_one_round_only(73.5));
}

// One is being written, and one comes at the end.
TEST(TimeLimit, LeavesTimeForSeveralSaves) {
  TimeLimit limit(100, 0);
  limit.note_save(3);
  EXPECT_FALSE(limit.allows_one_round_only(87, 2));
  EXPECT_TRUE(limit.allows_one_round_only(87.5, 2));
}

TEST(TimeLimit, AssumesASaveUntilOneWasMeasured) {
  TimeLimit limit(100, 20);
  EXPECT_FALSE(limit.allows_one_round_only(78));
  EXPECT_TRUE(limit.allows_one_round_only(79.5));
  limit.note_save(0.5);
  EXPECT_FALSE(limit.allows_one_round_only(79.5));
}

TEST(TimeLimit, IsTheSoonerOfOptionAndJob) {
  const auto ends_by = [](const char* option, const char* job, double elapsed) {
    return time_limit_of(parse_time_limit(option), job, 1000, 0).allows_one_round_only(elapsed);
  };
  EXPECT_FALSE(ends_by("", nullptr, 1e9));
  EXPECT_FALSE(ends_by("", "no number", 1e9));
  EXPECT_FALSE(ends_by("00:01", nullptr, 58));
  EXPECT_TRUE(ends_by("00:01", nullptr, 60));
  EXPECT_FALSE(ends_by("00:01", "1030", 28));
  EXPECT_TRUE(ends_by("00:01", "1030", 30));
  EXPECT_TRUE(ends_by("00:00:20", "1030", 20));
  EXPECT_TRUE(ends_by("", "900", 0));  // over already: one step, then a save
}

TEST(TimeLimit, IsHoursMinutesAndPerhapsSeconds) {
  EXPECT_EQ(parse_time_limit("01:02"), 3720);
  EXPECT_EQ(parse_time_limit("100:00:05"), 360005);
  for (const char* text : {"", "5", "1:60", "1:2:60", "a:00", "1:00:00:00", "-1:00", "00:00", "1:"})
    EXPECT_EQ(parse_time_limit(text), std::nullopt) << text;
}

}  // namespace
}  // namespace revode
