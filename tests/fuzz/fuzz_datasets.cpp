// The readers of CIFAR-10, CIFAR-100 and STL-10. The input says what each file is: of how many
// records, with which labels, how many bytes too long or short; so a small input makes large
// records, and what must come of it is known.
#include <algorithm>
#include <vector>

#include <fuzzer/FuzzedDataProvider.h>
#include <sys/stat.h>

#include "revode/data/dataset.hpp"

#include "fuzz/fuzz_support.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;

/// What a reader is to find in a file.
struct MadeFile {
  bool is_readable = true;
  std::vector<std::uint8_t> bytes;
};

enum class Kind {
  regular,
  missing,
  folder,
  fifo,
  dangling_link,
  endless_link,
  huge,
  kMaxValue = huge
};

/// Makes `file` of records of `labels` label bytes, drawn from the input, and `image` bytes of a
/// pattern.
MadeFile make_file(FuzzedDataProvider& input, const fs::path& file, std::size_t num_labels,
                   std::size_t image_bytes) {
  MadeFile made;
  // Most files are regular: a run of refusals teaches the fuzzer nothing.
  const Kind kind = input.ConsumeBool() ? Kind::regular : input.ConsumeEnum<Kind>();
  made.is_readable = kind == Kind::regular;
  if (kind == Kind::missing) return made;
  if (kind == Kind::folder) fs::create_directory(file);
  if (kind == Kind::fifo) ::mkfifo(file.c_str(), 0600);
  if (kind == Kind::dangling_link) fs::create_symlink("nowhere", file);
  if (kind == Kind::endless_link) fs::create_symlink(file.filename(), file);
  if (kind == Kind::huge) {  // with a hole for all its bytes
    write_bytes(file, {});
    fs::resize_file(file, (std::uintmax_t{1} << 40) * (num_labels + image_bytes));
  }
  if (kind != Kind::regular) return made;
  const int num_records = input.ConsumeIntegralInRange<int>(0, image_bytes > 10000 ? 3 : 8);
  std::uint8_t next = input.ConsumeIntegral<std::uint8_t>();
  for (int record = 0; record < num_records; ++record) {
    for (std::size_t i = 0; i < num_labels; ++i)
      made.bytes.push_back(input.ConsumeIntegral<std::uint8_t>());
    for (std::size_t i = 0; i < image_bytes; ++i) made.bytes.push_back(next = 31 * next + 7);
  }
  const int beyond = input.ConsumeBool() ? 0 : input.ConsumeIntegralInRange<int>(-3, 3);
  made.bytes.resize(
      std::max<std::int64_t>(0, static_cast<std::int64_t>(made.bytes.size()) + beyond));
  write_bytes(file, made.bytes);
  return made;
}

/// What must be read: the labels and, in the order of the program, the pixels; nothing where the
/// files are to be refused.
struct Expected {
  bool is_accepted = true;
  std::vector<std::uint8_t> labels, pixels;
};

void add_cifar(const MadeFile& file, std::size_t num_labels, int num_classes, Expected& expected) {
  constexpr std::size_t image_bytes = 3 * 32 * 32;
  const std::size_t record_bytes = num_labels + image_bytes;
  expected.is_accepted &=
      file.is_readable && !file.bytes.empty() && file.bytes.size() % record_bytes == 0;
  if (!expected.is_accepted) return;
  for (std::size_t at = 0; at < file.bytes.size(); at += record_bytes) {
    expected.labels.push_back(file.bytes[at + num_labels - 1]);
    expected.is_accepted &= expected.labels.back() < num_classes;
    const auto image = file.bytes.begin() + static_cast<std::ptrdiff_t>(at + num_labels);
    expected.pixels.insert(expected.pixels.end(), image, image + image_bytes);
  }
}

Expected expected_of_stl10(const MadeFile& images, const MadeFile& labels) {
  constexpr std::size_t side = 96, plane = side * side, image_bytes = 3 * plane;
  Expected expected;
  expected.is_accepted = images.is_readable && labels.is_readable && !images.bytes.empty() &&
                         images.bytes.size() == labels.bytes.size() * image_bytes;
  if (!expected.is_accepted) return expected;
  for (const std::uint8_t label : labels.bytes) {
    expected.is_accepted &= label >= 1 && label <= 10;
    expected.labels.push_back(static_cast<std::uint8_t>(label - 1));
  }
  for (std::size_t i = 0; i < images.bytes.size(); ++i) {
    const std::size_t in_plane = i % plane;
    expected.pixels.push_back(
        images.bytes[i - in_plane + in_plane % side * side + in_plane / side]);
  }
  return expected;
}

Expected make_files(FuzzedDataProvider& input, const std::string& name, Split split,
                    const fs::path& folder) {
  const bool trains = split == Split::train;
  if (name == "stl10") {
    const MadeFile images =
        make_file(input, folder / (trains ? "train_X.bin" : "test_X.bin"), 0, 27648);
    return expected_of_stl10(
        images, make_file(input, folder / (trains ? "train_y.bin" : "test_y.bin"), 1, 0));
  }
  Expected expected;
  const bool is_cifar10 = name == "cifar10";
  std::vector<std::string> files{is_cifar10 ? "test_batch.bin" : trains ? "train.bin" : "test.bin"};
  if (is_cifar10 && trains) {
    files.clear();
    for (int i = 1; i <= 5; ++i) files.push_back(fmt::format("data_batch_{}.bin", i));
  }
  for (const std::string& file : files) {
    const std::size_t num_labels = is_cifar10 ? 1 : 2;
    add_cifar(make_file(input, folder / file, num_labels, 3072), num_labels, is_cifar10 ? 10 : 100,
              expected);
  }
  return expected;
}

void check_read(const Dataset& dataset, const Expected& expected, Contents contents) {
  require(expected.is_accepted, "files that should be refused");
  require(dataset.size == static_cast<std::int64_t>(expected.labels.size()),
          "another number of images");
  require(std::equal(expected.labels.begin(), expected.labels.end(), dataset.labels.data()),
          "other labels");
  if (contents == Contents::labels_only) return;
  const std::size_t image_bytes = dataset.info.image.size();
  for (std::int64_t i = 0; i < dataset.size; ++i)
    require(std::ranges::equal(dataset.image(i),
                               std::span(expected.pixels).subspan(i * image_bytes, image_bytes)),
            "other pixels");
}

}  // namespace
}  // namespace revode

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace revode;
  FuzzedDataProvider input(data, size);
  const std::string name = input.PickValueInArray({"cifar10", "cifar100", "stl10"});
  const Split split = input.ConsumeBool() ? Split::train : Split::test;
  const Contents contents =
      input.ConsumeBool() ? Contents::images_and_labels : Contents::labels_only;
  const fs::path folder = scratch() / "data";
  fs::remove_all(folder);
  fs::create_directory(folder);
  const Expected expected = make_files(input, name, split, folder);
  const bool read = accepts("", [&] {
    check_read(load_dataset(dataset_info(name), folder, split, contents), expected, contents);
  });
  require(read == expected.is_accepted, "files that are good and were refused");
  return 0;
}
