// What a file holds is told from its content, whatever its name is.
#include "revode/checkpoint/file_content.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "checkpoint/hdf5_file.hpp"
#include "support/temporary_folder.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;

Hdf5File ours(const fs::path& file) {
  Hdf5File made(file);
  made.text("/", "format", "revode");
  return made;
}

TEST(FileContent, TellsCheckpointsAndResultsApart) {
  const TemporaryFolder folder;
  ours(folder / "checkpoint").array("/model/a", {2}, H5T_IEEE_F32LE);
  ours(folder / "empty").group("/progress");
  ours(folder / "eval")
      .array("/logits", {2, 2}, H5T_IEEE_F32LE)
      .array("/labels", {2}, H5T_IEEE_F32LE);
  ours(folder / "gradient")
      .number("/", "regularization", H5T_IEEE_F64LE, 0.5)
      .array("/logits", {2, 2}, H5T_IEEE_F32LE)
      .array("/model/a", {2}, H5T_IEEE_F32LE);
  ours(folder / "strange")
      .array("/logits", {2}, H5T_IEEE_F32LE)
      .array("/model/a", {2}, H5T_IEEE_F32LE);
  fs::create_symlink("eval", folder / "link");

  EXPECT_EQ(content_of(folder / "checkpoint"), FileContent::checkpoint);
  EXPECT_EQ(content_of(folder / "empty"), FileContent::checkpoint);
  EXPECT_EQ(content_of(folder / "eval"), FileContent::eval_result);
  EXPECT_EQ(content_of(folder / "gradient"), FileContent::gradient_result);
  EXPECT_EQ(content_of(folder / "strange"), FileContent::checkpoint);
  EXPECT_EQ(content_of(folder / "link"), FileContent::eval_result);
}

TEST(FileContent, IsOtherForWhatIsNotOurs) {
  const TemporaryFolder folder;
  write_bytes(folder / "text", {'h', 'i'});
  write_bytes(folder / "nothing", {});
  Hdf5File(folder / "foreign").array("/logits", {2}, H5T_IEEE_F32LE);
  Hdf5File(folder / "named").text("/", "format", "other");
  Hdf5File(folder / "number").number("/", "format", H5T_STD_I32LE, 3);
  Hdf5File(folder / "cut").text("/", "format", "revode");
  fs::resize_file(folder / "cut", 100);
  ASSERT_EQ(mkfifo((folder / "fifo").c_str(), 0600), 0);

  for (const char* name : {"text", "nothing", "foreign", "named", "number", "cut", "fifo", "gone"})
    EXPECT_EQ(content_of(folder / name), FileContent::other) << name;
  EXPECT_EQ(content_of(folder.path()), FileContent::other);
}

}  // namespace
}  // namespace revode
