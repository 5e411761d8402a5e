#include "revode/run/hang_watch.hpp"

#include <chrono>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temporary_folder.hpp"

namespace revode {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::vector<std::string> four_places{"process 10 on a", "process 11 on a", "process 12 on b",
                                           "process 13 on b"};

TEST(Patience, IsTenMinutesUntilSomethingTookLonger) {
  Patience patience(std::nullopt);
  EXPECT_EQ(patience.seconds(), 600);
  patience.note(29);
  EXPECT_EQ(patience.seconds(), 600);
  patience.note(40);
  patience.note(2);
  EXPECT_EQ(patience.seconds(), 800);
}

TEST(Patience, IsWhatWasTold) {
  Patience patience(5.0);
  patience.note(1000);
  EXPECT_EQ(patience.seconds(), 5);
}

TEST(DescribeHang, NamesTheRankThatGivesNoSignOfLife) {
  const std::string text =
      describe_hang({{0, 1, "waits for what enters the slice forward", 31},
                     {1, 2, "waits for what enters the slice forward", 30},
                     {3, Activity::everybody, "waits in a collective call", 29}},
                    four_places);
  EXPECT_EQ(text,
            "nothing has moved for 31 s: ranks 0, 1 and 3 wait for rank 2 (process 12 on b), of "
            "which there is no sign of life: stopped, dead or busy");
}

TEST(DescribeHang, NamesTheRankThatWaitsForNobody) {
  const std::string text =
      describe_hang({{0, Activity::everybody, "waits in a collective call", 9},
                     {1, Activity::nobody, "writes a checkpoint", 9},
                     {2, Activity::everybody, "waits in a collective call", 9},
                     {3, Activity::everybody, "waits in a collective call", 9}},
                    four_places);
  EXPECT_EQ(text,
            "nothing has moved for 9 s: ranks 0, 2 and 3 wait for rank 1 (process 11 on a), which "
            "writes a checkpoint");
}

TEST(DescribeHang, TellsWhoWaitsForWhomWhereAllWait) {
  const std::string text =
      describe_hang({{0, 1, "waits for a message", 5}, {1, 0, "waits in a collective call", 5}},
                    {"here", "there"});
  EXPECT_EQ(text,
            "nothing has moved for 5 s: ranks 0 and 1 wait for each other: rank 0 waits for a "
            "message; rank 1 waits in a collective call");
}

TEST(DescribeHang, OfOneRankSaysWhatItIsAt) {
  EXPECT_EQ(describe_hang({{0, Activity::nobody, "computes forward (slice 0)", 7}}, {"process 1"}),
            "nothing has moved for 7 s: rank 0 (process 1) computes forward (slice 0)");
}

TEST(DescribeHang, NamesManyRanksShortly) {
  std::vector<HangReport> reports;
  for (int rank = 0; rank < 8; ++rank)
    if (rank != 5) reports.push_back({rank, Activity::everybody, "waits", 1});
  EXPECT_THAT(describe_hang(reports, std::vector<std::string>(8, "process 1")),
              HasSubstr("ranks 0 to 4, 6 and 7 wait for rank 5 "));
}

TEST(DescribeHangAlone, SaysWhatTheRankKnowsOfItself) {
  EXPECT_EQ(describe_hang_alone({2, Activity::everybody, "waits in MPI_Barrier", 9}, "process 1"),
            "nothing has moved for 9 s on rank 2 (process 1), which waits in MPI_Barrier (for all "
            "ranks)");
  EXPECT_EQ(describe_hang_alone({0, Activity::nobody, "reads the dataset", 9}, "process 1"),
            "nothing has moved for 9 s on rank 0 (process 1), which reads the dataset");
}

TEST(CurrentActivity, IsAStack) {
  const ActivityState before = current_activity();
  const ActivityScope outer({.what = "takes a step", .step = 12});
  {
    const ActivityScope inner({.what = "computes forward", .micro_batch = 3, .slice = 1});
    const ActivityState state = current_activity();
    ASSERT_EQ(state.stack.size(), before.stack.size() + 2);
    EXPECT_EQ(to_string(state.stack[state.stack.size() - 2]), "takes a step (step 12)");
    EXPECT_EQ(to_string(state.stack.back()), "computes forward (micro-batch 3, slice 1)");
  }
  EXPECT_EQ(current_activity().stack.size(), before.stack.size() + 1);
  EXPECT_EQ(current_activity().changes, before.changes + 3);
}

class HangWatchTest : public testing::Test {
 protected:
  /// The process plays `rank` of three; ended() says what was printed, once it is over.
  std::unique_ptr<HangWatch> watch(int rank, double seconds) {
    return watch(rank, seconds, {.path = folder_.path()});
  }
  std::unique_ptr<HangWatch> watch(int rank, double seconds, const ReportFolder& folder) {
    using std::chrono::milliseconds;
    const WatchPace pace{.look_every = milliseconds(10),
                         .longest_look = milliseconds(200),
                         .ask_every = milliseconds(50),
                         .gather_for = milliseconds(600),
                         .give_way_for = milliseconds(600)};
    return std::make_unique<HangWatch>(
        HangWatch::Job{rank, {"place 0", "place 1", "place 2"}, "job 7"}, folder, seconds,
        [this, rank](const std::string* error) {
          const std::lock_guard lock(mutex_);
          endings_.emplace_back(rank, error != nullptr ? *error : "");
          changed_.notify_all();
        },
        pace);
  }
  std::vector<std::pair<int, std::string>> endings(std::size_t number) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60), [&] { return endings_.size() >= number; });
    return endings_;
  }
  std::string text_of(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(folder_.path() / name).rdbuf();
    return text.str();
  }

  TemporaryFolder folder_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<int, std::string>> endings_;
};

// Rank 2 does not run; the others wait for it, as far as this process says. Files of another job
// are in the way.
TEST_F(HangWatchTest, TheLowestRankThatReportsPrintsWhomTheOthersWaitFor) {
  std::ofstream(folder_.path() / hang_file_name(2))
      << "job: job 6\nseconds: 3\nat: waits\nwaits for: rank 1\n";
  std::ofstream(folder_.path() / "hang-up.txt") << "job: job 7\n";
  const ActivityScope outer({.what = "takes a step", .step = 12});
  const ActivityScope at({.what = "waits for a message", .waits_for = 2});
  const auto first = watch(0, 0.3), second = watch(1, 0.3);
  const auto ended = endings(2);
  ASSERT_EQ(ended.size(), 2);
  EXPECT_EQ(ended[0].first, 0);
  EXPECT_THAT(ended[0].second, AllOf(HasSubstr("ranks 0 and 1 wait for rank 2 (place 2)"),
                                     HasSubstr("no sign of life")));
  EXPECT_EQ(ended[1], std::pair(1, std::string()));
  EXPECT_THAT(text_of(hang_file_name(1)),
              AllOf(HasSubstr("rank 1, place 1, 20"), HasSubstr("\njob: job 7\n"),
                    HasSubstr("\nat: waits for a message\nwaits for: rank 2\n"),
                    HasSubstr("\n  takes a step (step 12)\n  waits for a message\n")));
}

TEST_F(HangWatchTest, ARankInDoubtReportsWithTheFirst) {
  const ActivityScope at({.what = "writes a checkpoint"});
  const auto hasty = watch(1, 1), patient = watch(0, 1.9);
  const auto ended = endings(2);
  ASSERT_EQ(ended.size(), 2);
  EXPECT_THAT(ended[0].second, HasSubstr("rank 0 (place 0)"));
}

TEST_F(HangWatchTest, NothingEndsWhileSomethingMoves) {
  const auto watching = watch(0, 0.5);
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1500);
  while (std::chrono::steady_clock::now() < end) {
    const ActivityScope at({.what = "computes forward"});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_TRUE(endings(0).empty());
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / hang_file_name(0)));
}

TEST_F(HangWatchTest, MakesItsOwnFolderForTheFirstReport) {
  const std::filesystem::path own = folder_.path() / "own";
  const auto watching = watch(0, 0.3, {.path = own, .is_of_watch = true});
  EXPECT_FALSE(std::filesystem::exists(own));
  const ActivityScope at({.what = "waits for a message", .waits_for = 1});
  const auto ended = endings(1);
  ASSERT_EQ(ended.size(), 1);
  EXPECT_THAT(ended[0].second, HasSubstr((own / "hang-<rank>.txt").string() + " has more"));
  EXPECT_THAT(text_of("own/" + hang_file_name(0)), HasSubstr("\nwaits for: rank 1\n"));
}

TEST_F(HangWatchTest, RemovesItsOwnFolderWhereItGoesOn) {
  const std::filesystem::path own = folder_.path() / "own";
  const auto watching = watch(0, 0.3, {.path = own, .is_of_watch = true});
  std::optional<ActivityScope> at(std::in_place, Activity{.what = "waits for a message"});
  const auto until = [&](bool is_there) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::filesystem::exists(own) != is_there && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return std::filesystem::exists(own) == is_there;
  };
  EXPECT_TRUE(until(true));
  at.reset();
  EXPECT_TRUE(until(false));
  EXPECT_TRUE(endings(0).empty());
}

TEST_F(HangWatchTest, SpeaksForItselfWhereThereIsNoFolder) {
  const ActivityScope at({.what = "waits for a message", .waits_for = 1});
  const auto first = watch(0, 0.3, {}), second = watch(2, 0.3, {});
  const auto ended = endings(2);
  ASSERT_EQ(ended.size(), 2);
  EXPECT_THAT(ended[0].second,
              AllOf(HasSubstr("on rank 0 (place 0), which waits for a message (for rank 1)"),
                    HasSubstr("no folder")));
  EXPECT_THAT(ended[1].second, HasSubstr("on rank 2 (place 2)"));
}

TEST_F(HangWatchTest, EndsTheJobWhereNoReportCanBeWritten) {
  std::filesystem::create_directory(folder_.path() / hang_file_name(0));
  const ActivityScope at({.what = "waits for a message", .waits_for = 1});
  const auto watching = watch(0, 0.3);
  const auto ended = endings(1);
  ASSERT_EQ(ended.size(), 1);
  EXPECT_THAT(ended[0].second,
              AllOf(HasSubstr("rank 0 waits for ranks 1 and 2"), Not(HasSubstr("place 0"))));
}

}  // namespace
}  // namespace revode
