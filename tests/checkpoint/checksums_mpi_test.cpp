// Checksums of files that write_checkpoint() makes, by one process: every flipped bit is seen, and
// has a name.
#include <algorithm>
#include <array>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "revode/checkpoint/checkpoint_reader.hpp"
#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/core/error.hpp"

#include "checkpoint/checksums.hpp"
#include "checkpoint/hdf5_handles.hpp"
#include "support/error_text.hpp"
#include "support/temporary_folder.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// A checkpoint of two arrays in a folder of its own, and its bytes.
class ChecksumTest : public testing::Test {
 protected:
  ChecksumTest() {
    silence_hdf5();
    for (std::size_t k = 0; k < a_.size(); ++k) a_[k] = 1 + static_cast<float>(k);
    for (std::size_t k = 0; k < b_.size(); ++k) b_[k] = -1 - static_cast<float>(k);
    write_checkpoint(
        file_,
        {.config = {{"arch", "hamiltonian"}},
         .root_attributes = {},
         .progress = {{"step", 3}},
         .arrays = {{"/model/a", {10, 5}, 0, 10, a_.data()}, {"/model/b", {7}, 0, 7, b_.data()}}},
        MPI_COMM_SELF);
    bytes_ = read_bytes(file_);
  }

  /// The place of an array in the file: where its bytes are, and nowhere else.
  template <typename Array>
  std::size_t place_of(const Array& array) const {
    const auto* first = reinterpret_cast<const unsigned char*>(array.data());
    const auto found =
        std::search(bytes_.begin(), bytes_.end(), first, first + sizeof(float) * array.size());
    EXPECT_NE(found, bytes_.end());
    return static_cast<std::size_t>(found - bytes_.begin());
  }

  /// What the reader says when one bit is another.
  std::string error_after_flip(std::size_t byte, int bit) const {
    auto damaged = bytes_;
    damaged[byte] = static_cast<unsigned char>(damaged[byte] ^ (1u << bit));
    write_bytes(folder_ / "damaged.h5", damaged);
    return error_text(ExitStatus::bad_input,
                      [&] { CheckpointReader reader(folder_ / "damaged.h5"); });
  }

  TemporaryFolder folder_;
  fs::path file_ = folder_ / "whole.h5";
  std::array<float, 50> a_{};
  std::array<float, 7> b_{};
  std::vector<unsigned char> bytes_;
};

TEST_F(ChecksumTest, AFileAsItWasWrittenIsAccepted) {
  const CheckedFile checked = check_checksums(file_);

  EXPECT_TRUE(checked.has_checksums);
  EXPECT_EQ(checked.num_arrays, 2u);
  EXPECT_EQ(checked.bytes, bytes_.size());
  EXPECT_TRUE(CheckpointReader(file_).has_checksums());
}

TEST_F(ChecksumTest, ADamagedArrayIsNamed) {
  EXPECT_THAT(error_after_flip(place_of(a_) + 17, 3),
              AllOf(HasSubstr("/model/a is not"), Not(HasSubstr("/model/b"))));
  EXPECT_THAT(error_after_flip(place_of(b_), 0),
              AllOf(HasSubstr("/model/b is not"), Not(HasSubstr("/model/a"))));
  EXPECT_THAT(error_after_flip(place_of(b_) + sizeof(float) * b_.size() - 1, 7),
              HasSubstr("/model/b is not"));
}

TEST_F(ChecksumTest, EveryByteIsCovered) {
  for (std::size_t byte = 0; byte < bytes_.size(); ++byte) {
    const int bit = static_cast<int>(byte % 8);
    ASSERT_NE(error_after_flip(byte, bit), "") << "byte " << byte << ", bit " << bit;
  }
}

TEST_F(ChecksumTest, AShorterOrLongerFileIsRefused) {
  for (const std::size_t size : {bytes_.size() - 1, place_of(b_) + 3, std::size_t{600}}) {
    write_bytes(folder_ / "cut.h5", {bytes_.begin(), bytes_.begin() + static_cast<long>(size)});
    EXPECT_NE(error_text(ExitStatus::bad_input, [&] { CheckpointReader r(folder_ / "cut.h5"); }),
              "")
        << size;
  }
  auto longer = bytes_;
  longer.push_back(0);
  write_bytes(folder_ / "longer.h5", longer);
  EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { CheckpointReader r(folder_ / "longer.h5"); }),
              HasSubstr("the part that is no array is not"));
}

TEST_F(ChecksumTest, IgnoredWhereAsked) {
  auto damaged = bytes_;
  damaged[place_of(a_)] ^= 1;
  write_bytes(folder_ / "damaged.h5", damaged);

  const CheckpointReader reader(folder_ / "damaged.h5", CheckpointReader::Checksums::ignore);

  EXPECT_EQ(reader.progress()["step"], 3);
}

// A checkpoint of the first version, written before there were checksums, is kept for ever.
TEST(OldCheckpoints, VersionOneWithoutChecksumsIsRead) {
  const fs::path file = fs::path(REVODE_TEST_DATA_DIR) / "checkpoint-version-1.h5";
  const CheckpointReader reader(file);

  EXPECT_FALSE(reader.has_checksums());
  EXPECT_FALSE(check_checksums(file).has_checksums);
  EXPECT_EQ(reader.config()["arch"], "hamiltonian");
  EXPECT_EQ(reader.progress()["step"], 3);
  std::vector<float> kernel(2 * 2 * 2 * 9);
  reader.read({"/model/stage_1/kernel", {2, 2, 2, 3, 3}, 0, 2, kernel.data()});
  EXPECT_NE(kernel[0], 0);
}

}  // namespace
}  // namespace revode
