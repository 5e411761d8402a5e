// Checkpoints written and read by several ranks together: the same bytes for any number of them,
// complete or absent, and an error of one is an error of all.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <numeric>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>
#include <sys/resource.h>
#include <unistd.h>

#include "revode/checkpoint/checkpoint_reader.hpp"
#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/core/error.hpp"

#include "checkpoint/hdf5_file.hpp"
#include "support/temporary_folder.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

int world_size() {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

/// Made by rank 0, known to all, removed by rank 0 when all are done.
class SharedFolder {
 public:
  SharedFolder() {
    char name[4096] = "";
    if (world_rank() == 0) {
      owner_ = std::make_unique<TemporaryFolder>();
      owner_->path().string().copy(name, sizeof name - 1);
    }
    MPI_Bcast(name, sizeof name, MPI_CHAR, 0, MPI_COMM_WORLD);
    path_ = name;
  }
  ~SharedFolder() { MPI_Barrier(MPI_COMM_WORLD); }
  const fs::path& path() const { return path_; }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
  std::unique_ptr<TemporaryFolder> owner_;
};

/// Element i of array a is 1000 a + i: every place can be told from every other.
std::vector<float> whole_array(int array, std::int64_t size) {
  std::vector<float> values(size);
  std::iota(values.begin(), values.end(), 1000.0f * static_cast<float>(array));
  return values;
}

/// A small checkpoint, its rows spread over the ranks of a communicator in one of several ways.
struct Model {
  Model(MPI_Comm communicator, int spread) {
    int rank = 0;
    int size = 1;
    MPI_Comm_rank(communicator, &rank);
    MPI_Comm_size(communicator, &size);
    contents.config = {{"arch", "leapfrog"}, {"blocks", {1, 2}}, {"step-size", 0.1}};
    contents.root_attributes = {{"loss", 0.25}, {"note", ""}};
    contents.progress = {{"epoch", 3},
                         {"learning_rate", 0.1},
                         {"seed", 18446744073709551615u},
                         {"schedule", "1f1b"},
                         {"loss_sum", -1.5e-300}};
    add("/model/input/mean", {3}, rank, size, 0);
    add("/model/stage_1/kernel", {7, 2, 2, 3, 3}, rank, size, spread);
    add("/model/stage_1/bias", {7, 2}, rank, size, spread);
    add("/model/stage_2/kernel", {3, 4, 4, 3, 3}, rank, size, spread + 1);
    add("/optimizer/momentum/stage_1/kernel", {7, 2, 2, 3, 3}, rank, size, spread);
  }

  /// spread 0: rank 0 has all rows; 1: the last rank; 2: even pieces; 3: even pieces, ranks in
  /// reverse.
  void add(const std::string& path, const std::vector<std::int64_t>& shape, int rank, int size,
           int spread) {
    ArraySlice slice{path, shape, 0, 0, nullptr};
    const int place = spread == 3 ? size - 1 - rank : rank;
    if (spread >= 2) {
      slice.first_row = shape[0] * place / size;
      slice.num_rows = shape[0] * (place + 1) / size - slice.first_row;
    } else if (rank == (spread == 0 ? 0 : size - 1)) {
      slice.num_rows = shape[0];
    }
    std::int64_t row_size = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) row_size *= shape[i];
    const std::vector<float> whole =
        whole_array(static_cast<int>(values.size()), shape[0] * row_size);
    values.emplace_back(whole.begin() + slice.first_row * row_size,
                        whole.begin() + (slice.first_row + slice.num_rows) * row_size);
    slice.data = values.back().data();
    contents.arrays.push_back(slice);
  }

  CheckpointContents contents;
  std::vector<std::vector<float>> values;
};

/// "" or the message; the error must have scope all_ranks, and be the same on every rank.
template <typename Action>
std::string shared_error(Action&& action) {
  std::string message;
  try {
    action();
  } catch (const Error& error) {
    message = error.what();
    EXPECT_EQ(error.scope(), ErrorScope::all_ranks);
  }
  char first[1024] = "";
  message.copy(first, sizeof first - 1);
  const std::string mine = first;
  MPI_Bcast(first, sizeof first, MPI_CHAR, 0, MPI_COMM_WORLD);
  EXPECT_EQ(mine, first);
  return message;
}

std::size_t num_files(const fs::path& folder) {
  return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
}

TEST(Checkpoint, EveryRankReadsBackWhatOthersWrote) {
  const SharedFolder folder;
  const Model written(MPI_COMM_WORLD, 2);
  write_checkpoint(folder / "a.h5", written.contents, MPI_COMM_WORLD);

  Model read(MPI_COMM_WORLD, 3);
  for (auto& values : read.values) std::fill(values.begin(), values.end(), -1.0f);
  const CheckpointReader reader(folder / "a.h5", MPI_COMM_WORLD);
  for (const ArraySlice& slice : read.contents.arrays) reader.read(slice);

  EXPECT_EQ(read.values, Model(MPI_COMM_WORLD, 3).values);
  EXPECT_EQ(reader.config(), written.contents.config);
  EXPECT_EQ(reader.progress(), written.contents.progress);
  EXPECT_EQ(reader.arrays().size(), 5u);
  EXPECT_EQ(reader.arrays()[0].path, "/model/input/mean");
  EXPECT_TRUE(reader.has("/model/stage_2/kernel"));
  EXPECT_FALSE(reader.has("/model/stage_3/kernel"));
}

TEST(Checkpoint, BytesDoNotDependOnRanksNorOnWhoHoldsWhichRows) {
  const SharedFolder folder;
  if (world_rank() == 0) {
    write_checkpoint(folder / "alone.h5", Model(MPI_COMM_SELF, 2).contents, MPI_COMM_SELF);
  }

  for (int spread = 0; spread < 3; ++spread) {
    const fs::path file = folder / ("together" + std::to_string(spread) + ".h5");
    write_checkpoint(file, Model(MPI_COMM_WORLD, spread).contents, MPI_COMM_WORLD);
    if (world_rank() == 0) {
      EXPECT_GT(fs::file_size(file), 4000u);
      EXPECT_TRUE(read_bytes(folder / "alone.h5") == read_bytes(file)) << "spread " << spread;
    }
  }
}

TEST(Checkpoint, WritingReplacesTheOldFileAndLeavesNothingElse) {
  const SharedFolder folder;
  Model model(MPI_COMM_WORLD, 2);
  write_checkpoint(folder / "a.h5", model.contents, MPI_COMM_WORLD);
  model.contents.progress["epoch"] = 4;

  write_checkpoint(folder / "a.h5", model.contents, MPI_COMM_WORLD);

  EXPECT_EQ(CheckpointReader(folder / "a.h5", MPI_COMM_WORLD).progress()["epoch"], 4);
  EXPECT_EQ(num_files(folder.path()), 1u);
}

TEST(Checkpoint, AModelAloneHasNoProgress) {
  const SharedFolder folder;
  Model model(MPI_COMM_WORLD, 2);
  model.contents.progress = nullptr;

  write_checkpoint(folder / "a.h5", model.contents, MPI_COMM_WORLD);

  EXPECT_EQ(CheckpointReader(folder / "a.h5", MPI_COMM_WORLD).progress(), nlohmann::json::object());
}

TEST(Checkpoint, WhatCannotBeWrittenIsSaidOnAllRanksAlike) {
  const SharedFolder folder;
  const auto write = [&](const fs::path& file, const CheckpointContents& contents) {
    return shared_error([&] { write_checkpoint(file, contents, MPI_COMM_WORLD); });
  };
  const Model good(MPI_COMM_WORLD, 2);
  Model infinite(MPI_COMM_WORLD, 2);
  infinite.contents.progress["best_accuracy"] = nullptr;
  Model gap(MPI_COMM_WORLD, 2);
  if (world_rank() == 0) gap.contents.arrays[1].num_rows -= 1;
  Model differing(MPI_COMM_WORLD, 2);
  differing.contents.progress["epoch"] = world_rank();

  EXPECT_THAT(write(folder / "nowhere/a.h5", good.contents), HasSubstr("no folder"));
  EXPECT_THAT(write(folder.path(), good.contents), HasSubstr("is a folder"));
  EXPECT_THAT(write(folder / "a.h5", infinite.contents), HasSubstr("best_accuracy"));
  EXPECT_THAT(write(folder / "a.h5", gap.contents), HasSubstr("/model/stage_1/kernel"));
  if (world_size() > 1) {
    EXPECT_THAT(write(folder / "a.h5", differing.contents), HasSubstr("disagree"));
  }
  EXPECT_EQ(num_files(folder.path()), 0u);
}

/// Files of this process end at `bytes` while it lives: a write beyond fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  void (*handler_)(int) = nullptr;
};

TEST(Checkpoint, AFullDiskIsAnErrorOnAllRanksAndTheOldFileStays) {
  const SharedFolder folder;
  Model model(MPI_COMM_WORLD, 2);
  write_checkpoint(folder / "a.h5", model.contents, MPI_COMM_WORLD);
  const auto before = read_bytes(folder / "a.h5");
  std::vector<float> large(1 << 20);
  model.contents.arrays.push_back(
      {"/model/large", {1 << 20}, 0, world_rank() == 0 ? 1 << 20 : 0, large.data()});

  // The rank that lays the file out always meets the limit. Another one does where its rows lie
  // beyond it; all succeed or fail together.
  std::vector<std::string> messages;
  for (const int limited_rank : {0, world_size() - 1}) {
    const FileSizeLimit limit(world_rank() == limited_rank ? 1 << 16 : RLIM_INFINITY);
    messages.push_back(
        shared_error([&] { write_checkpoint(folder / "a.h5", model.contents, MPI_COMM_WORLD); }));
    EXPECT_EQ(num_files(folder.path()), 1u);
    const bool unchanged = read_bytes(folder / "a.h5") == before;
    EXPECT_NE(unchanged, messages.back().empty());
    MPI_Barrier(MPI_COMM_WORLD);
  }

  EXPECT_THAT(messages[0], AllOf(HasSubstr("a.h5"), HasSubstr("File too large")));
}

void wait_until_idle(const CheckpointWrite& write) {
  while (!write.is_idle()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST(CheckpointWrite, IsInPlaceAfterTwoStepsOfAllRanks) {
  const SharedFolder folder;
  const Model model(MPI_COMM_WORLD, 2);
  write_checkpoint(folder / "at-once.h5", model.contents, MPI_COMM_WORLD);

  CheckpointWrite write(folder / "behind.h5", model.contents, MPI_COMM_WORLD);
  wait_until_idle(write);
  EXPECT_FALSE(fs::exists(folder / "behind.h5"));
  MPI_Barrier(MPI_COMM_WORLD);

  EXPECT_FALSE(write.advance());
  wait_until_idle(write);
  EXPECT_TRUE(write.advance());

  EXPECT_TRUE(read_bytes(folder / "behind.h5") == read_bytes(folder / "at-once.h5"));
  EXPECT_EQ(num_files(folder.path()), 2u);
  EXPECT_EQ(write.times_at_work().size(), world_rank() == 0 ? 2u : 1u);
  for (const auto& [begin, end] : write.times_at_work()) EXPECT_LE(begin, end);
}

TEST(CheckpointWrite, ThatIsGivenUpLeavesWhatWasThere) {
  const SharedFolder folder;
  Model model(MPI_COMM_WORLD, 2);
  write_checkpoint(folder / "a.h5", model.contents, MPI_COMM_WORLD);
  const auto before = read_bytes(folder / "a.h5");
  model.contents.progress["epoch"] = 4;
  { const CheckpointWrite write(folder / "a.h5", model.contents, MPI_COMM_WORLD); }
  MPI_Barrier(MPI_COMM_WORLD);

  EXPECT_EQ(num_files(folder.path()), 1u);
  EXPECT_TRUE(read_bytes(folder / "a.h5") == before);
}

TEST(CheckpointWrite, WhatTheLastThreadMeetsIsSaidOnAllRanksAlike) {
  const SharedFolder folder;
  const Model model(MPI_COMM_WORLD, 2);
  std::string message;
  {
    CheckpointWrite write(folder / "a.h5", model.contents, MPI_COMM_WORLD);
    if (world_rank() == 0) fs::create_directories(folder / "a.h5/in-the-way");
    EXPECT_FALSE(write.advance());
    message = shared_error([&] { write.advance(); });
  }
  MPI_Barrier(MPI_COMM_WORLD);

  EXPECT_THAT(message, AllOf(HasSubstr("a.h5"), HasSubstr("directory")));
  EXPECT_EQ(num_files(folder.path()), 1u);
}

TEST(Checkpoint, WhatCannotBeReadIsSaidOnAllRanksAlike) {
  const SharedFolder folder;
  write_checkpoint(folder / "a.h5", Model(MPI_COMM_WORLD, 2).contents, MPI_COMM_WORLD);
  if (world_rank() == 0) {
    auto bytes = read_bytes(folder / "a.h5");
    bytes.resize(bytes.size() - 100);
    write_bytes(folder / "short.h5", bytes);
  }
  const auto open = [&](const fs::path& file) {
    return shared_error([&] { CheckpointReader(file, MPI_COMM_WORLD); });
  };

  EXPECT_THAT(open(folder / "none.h5"), HasSubstr("does not exist"));
  EXPECT_THAT(open(folder / "short.h5"), HasSubstr("damaged or incomplete"));
  const CheckpointReader reader(folder / "a.h5", MPI_COMM_WORLD);
  float value = 0;
  EXPECT_THAT(shared_error([&] {
                reader.read({"/model/none", {1}, 0, 1, &value});
              }),
              HasSubstr("/model/none"));
  EXPECT_THAT(shared_error([&] {
                reader.read({"/model/input/mean", {4}, 0, 0, nullptr});
              }),
              AllOf(HasSubstr("[3]"), HasSubstr("[4]")));
}

/// Each rank in a folder of its own, as where nodes share no file system; back where it was in the
/// end.
class OwnFolder {
 public:
  OwnFolder() : before_(fs::current_path()) { fs::current_path(folder_.path()); }
  ~OwnFolder() { fs::current_path(before_); }

 private:
  TemporaryFolder folder_;
  fs::path before_;
};

TEST(Checkpoint, DifferentFilesOnRanksAreRefusedOnAllRanksAlike) {
  if (world_size() == 1) GTEST_SKIP() << "one rank sees one file";
  const OwnFolder folder;
  const int last = world_size() - 1;
  const auto write = [&](const CheckpointContents& contents) {
    write_checkpoint("a.h5", contents, MPI_COMM_SELF);
  };
  const auto open = [] { return shared_error([] { CheckpointReader("a.h5", MPI_COMM_WORLD); }); };
  const std::string rank = fmt::format("(rank {})", last);
  Model model(MPI_COMM_SELF, 2);

  write(model.contents);
  EXPECT_EQ(open(), "");
  if (world_rank() == last) {
    model.values[1][3] = 0.5f;  // the same size, other bytes
    write(model.contents);
  }
  EXPECT_THAT(open(),
              AllOf(HasSubstr("'a.h5' is another file here than on rank 0"), HasSubstr(rank)));
  if (world_rank() == last) {
    model.contents.config["blocks"] = {1, 2, 3, 4, 5};
    write(model.contents);
  }
  EXPECT_THAT(open(), HasSubstr("digest"));

  // Without checksums all bytes count.
  for (const int other : {1, 2}) {
    Hdf5File("a.h5")
        .text("/", "format", "revode")
        .number("/", "version", H5T_STD_I32LE, 1)
        .text("/", "config", "{}")
        .array("/model/a", {50'000}, H5T_IEEE_F32LE, world_rank() == last ? other : 1);
    EXPECT_EQ(open().empty(), other == 1);
  }
}

TEST(Checkpoint, AFolderThatRanksSeeDifferentlyIsSaidInsteadOfWaitedForWithoutEnd) {
  if (world_size() == 1) GTEST_SKIP() << "one rank sees one folder";
  const SharedFolder shared;
  const Model model(MPI_COMM_WORLD, 2);
  const auto write = [&] {
    return shared_error([&] {
      write_checkpoint("a.h5", model.contents, MPI_COMM_WORLD, std::chrono::milliseconds(100));
    });
  };
  {
    const OwnFolder folder;
    char host[256] = "";
    gethostname(host, sizeof host - 1);

    EXPECT_THAT(write(),
                AllOf(HasSubstr("a.h5"), HasSubstr("(rank 1)"), HasSubstr("working folder"),
                      HasSubstr(host), HasSubstr("all nodes share")));
    EXPECT_EQ(num_files("."), 0u);
  }
  const fs::path before = fs::current_path();
  fs::current_path(shared.path());
  EXPECT_EQ(write(), "");
  fs::current_path(before);
  EXPECT_TRUE(fs::exists(shared / "a.h5"));
}

// The temporary file gets a name that nobody has: what stands there under another is not ours.
TEST(Checkpoint, WritingTouchesNoOtherFile) {
  const SharedFolder folder;
  const std::vector<unsigned char> text = {'m', 'i', 'n', 'e'};
  if (world_rank() == 0) {
    write_bytes(folder / ".a.h5.tmp", text);
    write_bytes(folder / ".a.h5.AAAAAA.tmp", text);
  }

  write_checkpoint(folder / "a.h5", Model(MPI_COMM_WORLD, 2).contents, MPI_COMM_WORLD);

  EXPECT_EQ(num_files(folder.path()), 3u);
  EXPECT_EQ(read_bytes(folder / ".a.h5.tmp"), text);
  EXPECT_EQ(read_bytes(folder / ".a.h5.AAAAAA.tmp"), text);
}

// What is asked of the disk before is what the file takes, but for a few KB.
TEST(Checkpoint, NeedsNoMoreOfTheDiskThanItsSize) {
  const SharedFolder folder;
  const Model model(MPI_COMM_WORLD, 2);
  write_checkpoint(folder / "a.h5", model.contents, MPI_COMM_WORLD);
  const auto bytes = static_cast<rlim_t>(fs::file_size(folder / "a.h5"));
  const auto error_within = [&](rlim_t limit_bytes) {
    const FileSizeLimit limit(limit_bytes);
    return shared_error([&] { write_checkpoint(folder / "a.h5", model.contents, MPI_COMM_WORLD); });
  };

  EXPECT_EQ(error_within(bytes + 8192), "");
  EXPECT_NE(error_within(bytes - 512), "");
}

TEST(Checkpoint, AFileThatOneRankCannotReadIsSaidInOneLineOnAllRanks) {
  if (world_size() == 1) GTEST_SKIP() << "one rank sees one file";
  const OwnFolder folder;
  const int last = world_size() - 1;
  if (world_rank() != last)
    write_checkpoint("a.h5", Model(MPI_COMM_SELF, 2).contents, MPI_COMM_SELF);

  try {
    const CheckpointReader reader("a.h5", MPI_COMM_WORLD);
    ADD_FAILURE() << "was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), ExitStatus::bad_input);
    EXPECT_EQ(error.what(), fmt::format("the checkpoint 'a.h5' does not exist (rank {})", last));
  }
}

}  // namespace
}  // namespace revode
