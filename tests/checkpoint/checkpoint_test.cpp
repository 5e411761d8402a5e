// Reading by one process without MPI: files made here with plain HDF5 calls, as other programs
// would make them, good and damaged. And the names of checkpoints.
#include <algorithm>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "revode/checkpoint/checkpoint_files.hpp"
#include "revode/checkpoint/checkpoint_reader.hpp"
#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"

#include "checkpoint/hdf5_file.hpp"
#include "support/error_text.hpp"
#include "support/temporary_folder.hpp"

/// Asked by the address sanitizer, where it is on: a damaged file may ask HDF5 for a huge block,
/// and malloc says no as ever.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace revode {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string open_error(const fs::path& file) {
  return error_text(ExitStatus::bad_input, [&] { CheckpointReader reader(file); });
}

TEST(CheckpointReader, AcceptsWhatOtherProgramsWrite) {
  const TemporaryFolder folder;
  const fs::path file = folder / "a.h5";
  Hdf5File(file)
      .variable_text("/", "format", "revode")
      .number("/", "version", H5T_STD_I16BE, 1)
      .variable_text("/", "config", R"({"arch": "midpoint"})")
      .group("/progress")
      .number("/progress", "epoch", H5T_STD_U8LE, 200)
      .number("/progress", "step", H5T_STD_I32BE, -7)
      .number("/progress", "learning_rate", H5T_IEEE_F32LE, 0.5)
      .variable_text("/progress", "schedule", "1f1b")
      .text("/progress", "note", "fixed")
      .array("/model/a", {2, 3}, H5T_IEEE_F64BE)
      .array("/model/b", {4}, H5T_IEEE_F32LE)
      .array("/labels", {4}, H5T_STD_I64LE);

  const CheckpointReader reader(file);
  std::vector<float> row(3);
  reader.read({"/model/a", {2, 3}, 1, 1, row.data()});

  EXPECT_EQ(reader.config(), (nlohmann::json{{"arch", "midpoint"}}));
  EXPECT_EQ(reader.progress(), (nlohmann::json{{"epoch", 200},
                                               {"step", -7},
                                               {"learning_rate", 0.5},
                                               {"schedule", "1f1b"},
                                               {"note", "fixed"}}));
  EXPECT_EQ(row, (std::vector<float>{3, 4, 5}));
  ASSERT_EQ(reader.arrays().size(), 2u);
  EXPECT_EQ(reader.arrays()[1].path, "/model/b");
  EXPECT_EQ(reader.arrays()[0].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_FALSE(reader.has("/labels"));
}

TEST(CheckpointReader, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  fs::create_symlink("gone.h5", folder / "latest.h5");

  EXPECT_THAT(open_error(folder / "none.h5"), AllOf(HasSubstr("none.h5"), HasSubstr("not exist")));
  EXPECT_THAT(open_error(folder.path()), HasSubstr("is a folder"));
  EXPECT_THAT(open_error(folder / "latest.h5"), HasSubstr("gone.h5"));
}

TEST(CheckpointReader, RefusesOtherBytesAndFilesCutShort) {
  const TemporaryFolder folder;
  write_bytes(folder / "text.h5", {'h', 'i'});
  write_bytes(folder / "empty.h5", {});
  Hdf5File(folder / "whole.h5")
      .text("/", "format", "revode")
      .number("/", "version", H5T_STD_I32LE, 1)
      .text("/", "config", "{}")
      .array("/model/a", {1000}, H5T_IEEE_F32LE);
  auto bytes = read_bytes(folder / "whole.h5");

  EXPECT_EQ(open_error(folder / "whole.h5"), "");
  EXPECT_THAT(open_error(folder / "text.h5"), HasSubstr("not an HDF5 file"));
  EXPECT_THAT(open_error(folder / "empty.h5"), HasSubstr("not an HDF5 file"));
  for (const std::size_t size :
       {bytes.size() - 1, bytes.size() / 2, std::size_t{100}, std::size_t{9}}) {
    write_bytes(folder / "cut.h5", {bytes.begin(), bytes.begin() + static_cast<long>(size)});
    EXPECT_THAT(open_error(folder / "cut.h5"), HasSubstr("damaged or incomplete")) << size;
  }
}

// Of a damaged file HDF5 1.10 reads beyond its own buffers, which it survives and the address
// sanitizer ends: under that one, places are looked at where it does not.
#ifdef __SANITIZE_ADDRESS__
constexpr bool spares_the_library = true;
#else
constexpr bool spares_the_library = false;
#endif

// Whatever byte is another, the reader either reads or throws an input error: no crash, no hang.
TEST(CheckpointReader, SurvivesOverwrittenBytes) {
  const TemporaryFolder folder;
  {
    Hdf5File whole(folder / "whole.h5");
    whole.text("/", "format", "revode")
        .number("/", "version", H5T_STD_I32LE, 1)
        .text("/", "config", "{}")
        .array("/model/a", {10}, H5T_IEEE_F32LE);
    if (!spares_the_library) {
      whole.group("/progress");
      // So many that the library extends its table of them: there damage made it crash.
      for (const char* name : {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"})
        whole.number("/progress", name, H5T_STD_I64LE, 1);
    }
  }
  const auto bytes = read_bytes(folder / "whole.h5");
  std::vector<float> values(10);
  int num_refused = 0;

  for (std::size_t place = 0; place < bytes.size(); place += spares_the_library ? 7 : 1) {
    auto damaged = bytes;
    const int flipped = spares_the_library || place % 2 == 0 ? 0xff : 0x04;
    damaged[place] = static_cast<unsigned char>(damaged[place] ^ flipped);
    write_bytes(folder / "damaged.h5", damaged);
    try {
      CheckpointReader(folder / "damaged.h5").read({"/model/a", {10}, 0, 10, values.data()});
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), ExitStatus::bad_input) << place << ": " << error.what();
      ++num_refused;
    }
  }

  EXPECT_GT(num_refused, 10);
}

TEST(CheckpointReader, RefusesOtherFormatsAndNewerVersions) {
  const TemporaryFolder folder;
  const fs::path file = folder / "a.h5";

  Hdf5File(file).text("/", "config", "{}");
  EXPECT_THAT(open_error(file), HasSubstr("no attribute 'format'"));
  Hdf5File(file).text("/", "format", "other");
  EXPECT_THAT(open_error(file), AllOf(HasSubstr("\"other\""), HasSubstr("\"revode\"")));
  Hdf5File(file).number("/", "format", H5T_STD_I32LE, 3);
  EXPECT_THAT(open_error(file), HasSubstr("is 3"));
  Hdf5File(file).text("/", "format", "revode");
  EXPECT_THAT(open_error(file), HasSubstr("no attribute 'version'"));
  Hdf5File(file).text("/", "format", "revode").number("/", "version", H5T_STD_U64LE, 2);
  EXPECT_THAT(open_error(file), AllOf(HasSubstr("version 2"), HasSubstr("reads version 1")));
  Hdf5File(file).text("/", "format", "revode").text("/", "version", "1");
  EXPECT_THAT(open_error(file), HasSubstr("whole number 1"));
}

TEST(CheckpointReader, RefusesAConfigThatIsNoJsonObject) {
  const TemporaryFolder folder;
  const fs::path file = folder / "a.h5";
  const auto start = [&]() -> Hdf5File {
    Hdf5File made(file);
    made.text("/", "format", "revode").number("/", "version", H5T_STD_I32LE, 1);
    return made;
  };

  start();
  EXPECT_THAT(open_error(file), HasSubstr("no attribute 'config'"));
  start().number("/", "config", H5T_STD_I32LE, 1);
  EXPECT_THAT(open_error(file), HasSubstr("no text"));
  start().text("/", "config", "{\"arch\": ");
  EXPECT_THAT(open_error(file), HasSubstr("not JSON"));
  start().text("/", "config", "[1, 2]");
  EXPECT_THAT(open_error(file), HasSubstr("array"));
}

TEST(CheckpointReader, RefusesAConfigWhoseValuesCannotBeHeld) {
  const TemporaryFolder folder;
  const fs::path file = folder / "a.h5";
  const auto error_for = [&](const std::string& config) {
    Hdf5File(file)
        .text("/", "format", "revode")
        .number("/", "version", H5T_STD_I32LE, 1)
        .text("/", "config", config);
    return open_error(file);
  };

  EXPECT_THAT(error_for(R"({"step-size": 1e400})"),
              AllOf(HasSubstr("a.h5"), HasSubstr("'config'"), HasSubstr("1e400"),
                    Not(HasSubstr("json.exception"))));
  EXPECT_THAT(error_for("{\"arch\": \"\xff\"}"), "");  // shown with a sign for what is no UTF-8
  EXPECT_THAT(error_for(std::string(20'000, '[') + std::string(20'000, ']')),
              HasSubstr("more than 64 levels"));
}

// As tools/fuzz found, the number of elements overflowed; and room for 4 TB was asked for.
TEST(CheckpointReader, RefusesArraysThatClaimMoreThanTheFileHolds) {
  const TemporaryFolder folder;
  const fs::path file = folder / "a.h5";
  const auto error_for = [&](const std::vector<hsize_t>& shape) {
    Hdf5File(file)
        .text("/", "format", "revode")
        .number("/", "version", H5T_STD_I32LE, 1)
        .text("/", "config", "{}")
        .claimed_array("/a", shape);
    return open_error(file);
  };
  constexpr hsize_t huge = hsize_t{1} << 40;

  EXPECT_EQ(error_for({100, 100}), "");
  EXPECT_THAT(error_for({1, huge}),
              AllOf(HasSubstr("array /a of shape [1,1099511627776]"), HasSubstr("bytes holds")));
  EXPECT_THAT(error_for({huge, huge}), HasSubstr("is damaged"));
  EXPECT_THAT(error_for({huge, huge, 0}), HasSubstr("is damaged"));
}

// As tools/fuzz found: to convert one element HDF5 asked for 4 GB.
TEST(CheckpointReader, TakesNumbersOfManyBytesForNoFloats) {
  const TemporaryFolder folder;
  const Hdf5Handle type(REVODE_HDF5(H5Tcopy(H5T_IEEE_F64LE)), H5Tclose);
  REVODE_HDF5(H5Tset_size(type.get(), std::size_t{1} << 30));
  Hdf5File(folder / "a.h5")
      .text("/", "format", "revode")
      .number("/", "version", H5T_STD_I32LE, 1)
      .text("/", "config", "{}")
      .claimed_array("/a", {1}, type.get());

  const CheckpointReader reader(folder / "a.h5");

  EXPECT_TRUE(reader.arrays().empty());
  EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { reader.check("/a", {1}); }),
              HasSubstr("as float8589934592, expected float32"));
}

// JSON holds UTF-8 alone, HDF5 any bytes.
TEST(CheckpointReader, TakesNamesAndTextsThatAreNoUtf8) {
  const TemporaryFolder folder;
  const fs::path file = folder / "a.h5";
  Hdf5File(file)
      .text("/", "format", "revode")
      .number("/", "version", H5T_STD_I32LE, 1)
      .text("/", "config", "{}")
      .group("/progress")
      .text("/progress", "note", "\xff\xfe")
      .number("/progress", "\xff", H5T_STD_I32LE, 1)
      .array("/model/a", {2}, H5T_IEEE_F32LE)
      .array("/model/\xff", {2}, H5T_IEEE_F32LE);

  const CheckpointReader reader(file);

  EXPECT_EQ(reader.progress().size(), 2u);
  EXPECT_EQ(parse_json(to_text(reader.progress())), reader.progress());
  ASSERT_EQ(reader.arrays().size(), 1u);
  EXPECT_EQ(reader.arrays()[0].path, "/model/a");
  Hdf5File(folder / "b.h5").text("/", "format", "\xff");
  EXPECT_THAT(open_error(folder / "b.h5"), HasSubstr("no checkpoint of this program"));
}

TEST(CheckpointReader, RefusesWhatIsNoRegularFile) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder / "fifo").c_str(), 0600), 0);

  EXPECT_THAT(open_error(folder / "fifo"), HasSubstr("is a FIFO, expected a regular file"));
  EXPECT_THAT(open_error("/dev/null"), HasSubstr("is a device, expected a regular file"));
}

TEST(FirstNonFinite, NamesTheFirstArrayThatHoldsOne) {
  const TemporaryFolder folder;
  const auto first_of = [&](double value) {
    Hdf5File(folder / "a.h5")
        .text("/", "format", "revode")
        .number("/", "version", H5T_STD_I32LE, 1)
        .text("/", "config", "{}")
        .array("/model/a", {3, 700'000}, H5T_IEEE_F32LE)  // in more than one piece
        .array("/model/b", {2, 2}, H5T_IEEE_F64LE, value)
        .array("/model/c", {2, 2}, H5T_IEEE_F32LE, value)
        .array("/model/integers", {2, 2}, H5T_STD_I64LE);
    return first_non_finite(CheckpointReader(folder / "a.h5"));
  };

  EXPECT_EQ(first_of(1), std::nullopt);
  EXPECT_EQ(first_of(std::numeric_limits<double>::quiet_NaN()), "/model/b");
  EXPECT_EQ(first_of(-std::numeric_limits<double>::infinity()), "/model/b");
  EXPECT_EQ(first_of(1e300), "/model/b");  // no float32
}

// The library's reasons hold the time, with the line break of ctime().
TEST(Hdf5ErrorText, IsOneLine) {
  silence_hdf5();

  H5Fopen("/nowhere/at all\n.h5", H5F_ACC_RDONLY, H5P_DEFAULT);
  const std::string text = hdf5_error_text();

  EXPECT_THAT(text, HasSubstr("No such file"));
  EXPECT_TRUE(std::ranges::none_of(text, [](unsigned char c) { return c < ' '; })) << text;
}

TEST(CheckpointReader, RefusesArraysThatAreMissingOrOtherwise) {
  const TemporaryFolder folder;
  Hdf5File(folder / "a.h5")
      .text("/", "format", "revode")
      .number("/", "version", H5T_STD_I32LE, 1)
      .text("/", "config", "{}")
      .array("/model/floats", {2, 3}, H5T_IEEE_F32LE)
      .array("/model/integers", {2, 3}, H5T_STD_I64LE);
  const CheckpointReader reader(folder / "a.h5");
  std::vector<float> values(6);
  const auto read = [&](const std::string& path, const std::vector<std::int64_t>& shape) {
    return error_text(ExitStatus::bad_input, [&] {
      reader.read({path, shape, 0, shape[0], values.data()});
    });
  };

  EXPECT_EQ(read("/model/floats", {2, 3}), "");
  EXPECT_THAT(read("/model/none", {2, 3}), AllOf(HasSubstr("a.h5"), HasSubstr("/model/none")));
  EXPECT_THAT(read("/model/floats", {3, 2}), AllOf(HasSubstr("[2,3]"), HasSubstr("[3,2]")));
  EXPECT_THAT(read("/model/integers", {2, 3}), AllOf(HasSubstr("int64"), HasSubstr("float32")));
}

TEST(CheckpointNames, AreListedByStepAndNothingElseIs) {
  const TemporaryFolder folder;
  for (const char* name :
       {"checkpoint-100.h5", "checkpoint-20.h5", "checkpoint-3.h5", "best.h5", "checkpoint-.h5",
        "checkpoint-4x.h5", "checkpoint--5.h5", ".checkpoint-7.h5.tmp"}) {
    write_bytes(folder / name, {});
  }
  fs::create_directory(folder / "checkpoint-8.h5");

  EXPECT_EQ(checkpoint_name(20), "checkpoint-20.h5");
  EXPECT_EQ(list_checkpoints(folder.path()),
            (std::vector<fs::path>{folder / "checkpoint-3.h5", folder / "checkpoint-20.h5",
                                   folder / "checkpoint-100.h5"}));
  EXPECT_TRUE(list_checkpoints(folder / "nowhere").empty());
}

TEST(CheckpointLink, PointsWithinItsFolderAndIsReplaced) {
  const TemporaryFolder folder;
  write_bytes(folder / "checkpoint-1.h5", {1});
  write_bytes(folder / "checkpoint-2.h5", {2});

  publish_link(folder / "checkpoint-1.h5", folder / "latest.h5");
  publish_link(folder / "checkpoint-2.h5", folder / "latest.h5");

  EXPECT_EQ(fs::read_symlink(folder / "latest.h5"), "checkpoint-2.h5");
  EXPECT_EQ(read_bytes(folder / "latest.h5"), std::vector<unsigned char>{2});
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 3);
  EXPECT_NE(error_text(ExitStatus::failure,
                       [&] { publish_link(folder / "checkpoint-1.h5", folder / "no/latest.h5"); }),
            "");
}

TEST(CheckpointLink, TouchesNoOtherFile) {
  const TemporaryFolder folder;
  write_bytes(folder / ".latest.h5.tmp", {7});

  publish_link(folder / "checkpoint-1.h5", folder / "latest.h5");

  EXPECT_EQ(read_bytes(folder / ".latest.h5.tmp"), std::vector<unsigned char>{7});
  EXPECT_TRUE(fs::is_symlink(folder / "latest.h5"));
}

TEST(LeftOverTemporaries, AreRemovedByTheirExactNamesOnly) {
  const TemporaryFolder folder;
  const std::vector<std::string> ours = {".best.h5.000000.tmp", ".checkpoint-0.h5.zZ9aA0.tmp",
                                         ".checkpoint-120.h5.a1B2c3.tmp", ".config.ini.a1B2c3.tmp"};
  const std::vector<std::string> others = {".best.h5.tmp",
                                           ".best.h5.a1B2c.tmp",
                                           ".best.h5.a1B2c34.tmp",
                                           ".best.h5.a1B2c_.tmp",
                                           ".best.h5.a1B2c3.tmp2",
                                           "best.h5.a1B2c3.tmp",
                                           ".other.h5.a1B2c3.tmp",
                                           ".checkpoint-.h5.a1B2c3.tmp",
                                           ".checkpoint--1.h5.a1B2c3.tmp",
                                           ".checkpoint-1.h5.tmp",
                                           ".checkpoint-x.h5.a1B2c3.tmp",
                                           ".checkpoint-1.h5xa1B2c3.tmp",
                                           ".latest.h5.a1B2c3.tmp",
                                           "..a1B2c3.tmp",
                                           ".tmp",
                                           "best.h5",
                                           "checkpoint-1.h5",
                                           ".metrics.jsonl.a1B2c3.tmp"};
  for (const std::string& name : ours) write_bytes(folder / name, {1});
  for (const std::string& name : others) write_bytes(folder / name, {1});
  fs::create_directory(folder / ".best.h5.folder.tmp");
  fs::create_symlink("x", folder / ".latest.h5.a1B2c4.tmp");
  fs::create_symlink("x", folder / ".best.h5.a1B2c4.tmp");  // best.h5 is never a link

  const std::vector<fs::path> removed = remove_left_over_temporaries(folder.path(), {"config.ini"});

  std::vector<fs::path> expected;
  for (const std::string& name : ours) expected.push_back(folder / name);
  expected.push_back(folder / ".latest.h5.a1B2c4.tmp");
  EXPECT_EQ(removed, expected);
  for (const fs::path& file : removed) EXPECT_FALSE(fs::exists(fs::symlink_status(file))) << file;
  for (const std::string& name : others) EXPECT_TRUE(fs::exists(folder / name)) << name;
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()),
            static_cast<std::ptrdiff_t>(others.size()) + 2);
  EXPECT_TRUE(remove_left_over_temporaries(folder / "nowhere").empty());
}

}  // namespace
}  // namespace revode
