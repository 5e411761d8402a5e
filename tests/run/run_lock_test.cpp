// One run a folder: by locks of the system, and without them by signs of life.
#include "revode/run/run_lock.hpp"

#include <csignal>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include "revode/files/json_text.hpp"

#include "support/error_text.hpp"
#include "support/temporary_folder.hpp"

namespace revode {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr LockSettings with_locks{.system_locks = true, .beat = 100ms, .silence = 1000ms};
constexpr LockSettings without_locks{.system_locks = false, .beat = 100ms, .silence = 1000ms};

/// A process that takes a folder and then does nothing until it is killed.
class Holder {
 public:
  Holder(const fs::path& folder, LockSettings settings) {
    process_ = fork();
    if (process_ != 0) return;
    const RunLock lock(folder, settings);
    for (;;) pause();
  }
  ~Holder() { kill(); }

  void kill() {
    if (process_ == 0) return;
    ::kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    process_ = 0;
  }
  pid_t process() const { return process_; }

 private:
  pid_t process_ = 0;
};

class Lock : public testing::TestWithParam<LockSettings> {
 protected:
  nlohmann::json record() const {
    std::ifstream stream(file_);
    return parse_json(stream);
  }
  void wait_until_held() const {
    while (!record().is_object()) std::this_thread::sleep_for(5ms);
  }

  TemporaryFolder folder_;
  fs::path file_ = folder_ / RunLock::file_name;
};

INSTANTIATE_TEST_SUITE_P(, Lock, testing::Values(with_locks, without_locks), [](const auto& test) {
  return test.param.system_locks ? "WithLocksOfTheSystem" : "WithoutThem";
});

TEST_P(Lock, IsFreeAgainAfterItsHolder) {
  { const RunLock lock(folder_.path(), GetParam()); }
  EXPECT_FALSE(fs::exists(file_));
  const RunLock lock(folder_.path(), GetParam());
  EXPECT_TRUE(lock.held());
  EXPECT_EQ(record()["process"], getpid());
}

TEST_P(Lock, ASecondRunIsRefusedAndToldWhoHoldsTheFolder) {
  const Holder holder(folder_.path(), GetParam());
  wait_until_held();

  const std::string text =
      error_text(ExitStatus::bad_input, [&] { RunLock(folder_.path(), GetParam()); });

  EXPECT_NE(text.find(folder_.path().string()), std::string::npos) << text;
  EXPECT_NE(text.find("process " + std::to_string(holder.process())), std::string::npos) << text;
}

TEST_P(Lock, AHolderThatWasKilledIsFollowedAtOnce) {
  Holder holder(folder_.path(), GetParam());
  wait_until_held();
  holder.kill();
  ASSERT_TRUE(fs::exists(file_));

  const auto begin = std::chrono::steady_clock::now();
  const RunLock lock(folder_.path(), GetParam());

  EXPECT_LT(std::chrono::steady_clock::now() - begin, 900ms);  // less than `silence`
  EXPECT_EQ(record()["process"], getpid());
}

TEST_P(Lock, GivesSignsOfLife) {
  const RunLock lock(folder_.path(), GetParam());
  const auto beats = record()["beats"].get<int>();
  std::this_thread::sleep_for(1s);
  EXPECT_GT(record()["beats"].get<int>(), beats);
}

/// The record of a holder on another machine, of which nothing can be known but its signs of life.
void write_foreign_record(const fs::path& file, int beats) {
  nlohmann::json record{{"host", "elsewhere"}, {"boot", "another"}, {"process_space", "another"},
                        {"job", "17"},         {"since", "then"},   {"process", 1},
                        {"beats", beats}};
  std::string text = to_text(record);
  text.resize(511, ' ');
  std::ofstream(file) << text << '\n';
}

TEST_P(Lock, ASilentHolderElsewhereIsFollowed) {
  write_foreign_record(file_, 1);
  testing::internal::CaptureStderr();
  const RunLock lock(folder_.path(), GetParam());
  const std::string notes = testing::internal::GetCapturedStderr();
  EXPECT_NE(notes.find("following process 1 on elsewhere, SLURM job 17"), std::string::npos)
      << notes;
  EXPECT_TRUE(lock.held());
}

TEST_P(Lock, AHolderElsewhereThatGivesSignsOfLifeIsNot) {
  write_foreign_record(file_, 1);
  std::jthread alive([&](const std::stop_token& stop) {
    for (int beats = 2; !stop.stop_requested(); ++beats) {
      std::this_thread::sleep_for(50ms);
      write_foreign_record(file_, beats);
    }
  });
  testing::internal::CaptureStderr();
  const std::string text =
      error_text(ExitStatus::bad_input, [&] { RunLock(folder_.path(), GetParam()); });
  testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("elsewhere"), std::string::npos) << text;
}

TEST_P(Lock, AFileOfThatNameThatIsNoLockStays) {
  std::ofstream(file_) << "notes of mine\n";
  EXPECT_NE(error_text(ExitStatus::bad_input, [&] { RunLock(folder_.path(), GetParam()); })
                .find("no lock of revode's"),
            std::string::npos);
  EXPECT_EQ(read_bytes(file_).size(), 14u);
}

// A process that was stopped for so long that another took the folder must not write any more.
TEST(LockWithoutLocksOfTheSystem, AHolderSeesThatItHasLostTheFolder) {
  const TemporaryFolder folder;
  const RunLock first(folder.path(), without_locks);
  ASSERT_TRUE(first.held());
  write_foreign_record(folder / "another", 1);
  fs::rename(folder / "another", folder / RunLock::file_name);
  std::this_thread::sleep_for(500ms);
  EXPECT_FALSE(first.held());
}

}  // namespace
}  // namespace revode
