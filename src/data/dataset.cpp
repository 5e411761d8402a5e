// The registry of datasets: what is known of each, which files it needs, who reads them; and what
// is said when the folder is not the right one. Knows no format.
#include "revode/data/dataset.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "revode/core/error.hpp"

#include "data/dataset_readers.hpp"

namespace revode {

namespace fs = std::filesystem;

namespace {

using Files = std::vector<std::string>;

struct DatasetEntry {
  DatasetInfo info;
  std::string title;  ///< the publishers' name
  Dataset (*read)(const ReadRequest&);
  Files train_files;
  Files test_files;

  const Files& files(Split split) const { return split == Split::train ? train_files : test_files; }
};

DatasetEntry entry(const char* name, const char* title, const ImageShape& image, int num_classes,
                   std::int64_t num_train_images, std::int64_t num_test_images,
                   Dataset (*read)(const ReadRequest&), Files train_files, Files test_files) {
  const bool needs_folder = !train_files.empty();
  return {{name, image, num_classes, needs_folder, num_train_images, num_test_images},
          title,
          read,
          std::move(train_files),
          std::move(test_files)};
}

// A new dataset is one line here and a reader in a file of its own.
// clang-format off
const std::vector<DatasetEntry>& registry() {
  static const std::vector<DatasetEntry> entries{
      entry("synthetic", "synthetic", {3, 32, 32}, 10, num_synthetic_images(Split::train, 32), num_synthetic_images(Split::test, 32), read_synthetic, {}, {}),
      entry("cifar10", "CIFAR-10", {3, 32, 32}, 10, 50000, 10000, read_cifar10, {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"}, {"test_batch.bin"}),
      entry("cifar100", "CIFAR-100", {3, 32, 32}, 100, 50000, 10000, read_cifar100, {"train.bin"}, {"test.bin"}),
      entry("stl10", "STL-10", {3, 96, 96}, 10, 5000, 8000, read_stl10, {"train_X.bin", "train_y.bin"}, {"test_X.bin", "test_y.bin"}),
  };
  return entries;
}
// clang-format on

std::string listed(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

const DatasetEntry& find_entry(std::string_view name) {
  for (const DatasetEntry& known : registry()) {
    if (known.info.name == name) return known;
  }
  throw input_error("--dataset: found '{}', expected one of {}", name, listed(dataset_names()));
}

bool holds(const fs::path& folder, const std::string& file) {
  std::error_code ignored;
  return fs::exists(folder / file, ignored);
}

bool holds_all(const fs::path& folder, const std::vector<std::string>& files) {
  return std::all_of(files.begin(), files.end(),
                     [&](const std::string& file) { return holds(folder, file); });
}

/// The first (by name) direct subfolder that holds all of `files`.
std::optional<fs::path> subfolder_with(const fs::path& folder,
                                       const std::vector<std::string>& files) {
  std::optional<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    std::error_code ignored;
    if (!item->is_directory(ignored) || !holds_all(item->path(), files)) continue;
    if (!found || item->path() < *found) found = item->path();
  }
  return found;
}

/// What the folder may be instead, and what to try.
std::string advice(const DatasetEntry& wanted, const fs::path& folder, Split split) {
  if (const auto subfolder = subfolder_with(folder, wanted.files(split))) {
    return fmt::format("its subfolder '{}' holds what is needed: try --data-dir {}",
                       subfolder->filename().string(), subfolder->string());
  }
  for (const DatasetEntry& other : registry()) {
    if (!other.info.needs_folder || other.info.name == wanted.info.name) continue;
    if (holds_all(folder, other.files(split))) {
      return fmt::format("this looks like {}: try --dataset {}", other.title, other.info.name);
    }
  }
  for (const std::string& file : wanted.files(split)) {
    if (holds(folder, fs::path(file).stem().string())) {
      return fmt::format(
          "'{}' is there without .bin: this looks like {}'s version for Python, "
          "download the binary version",
          fs::path(file).stem().string(), wanted.title);
    }
  }
  return fmt::format(
      "point --data-dir to the folder of {}'s binary version, unpacked; `tools/fetch_data {} DIR` "
      "downloads it",
      wanted.title, wanted.info.name);
}

void check_folder(const DatasetEntry& wanted, const fs::path& folder, Split split) {
  const std::string& name = wanted.info.name;
  REVODE_REQUIRE(!folder.empty(),
                 "--dataset {} needs --data-dir, the folder with {}: none was given", name,
                 listed(wanted.files(split)));
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  REVODE_REQUIRE(status.type() != fs::file_type::not_found,
                 "--data-dir: the folder '{}' does not exist, expected the folder with {}; "
                 "`tools/fetch_data {} {}` "
                 "downloads them",
                 folder.string(), listed(wanted.files(split)), name, folder.string());
  REVODE_REQUIRE(status.type() != fs::file_type::none, "--data-dir: cannot look at '{}': {}",
                 folder.string(), error.message());
  REVODE_REQUIRE(status.type() == fs::file_type::directory,
                 "--data-dir: '{}' is a file, expected the folder with {}", folder.string(),
                 listed(wanted.files(split)));
  for (const std::string& file : wanted.files(split)) {
    const fs::file_status file_status = fs::status(folder / file, error);
    REVODE_REQUIRE(file_status.type() != fs::file_type::not_found,
                   "--data-dir: '{}' has no file {}, which the {} split of {} needs; {}",
                   folder.string(), file, to_string(split), wanted.title,
                   advice(wanted, folder, split));
    REVODE_REQUIRE(file_status.type() != fs::file_type::directory,
                   "'{}' is a folder, expected a file of {}", (folder / file).string(),
                   wanted.title);
  }
}

}  // namespace

std::string_view to_string(Split split) { return split == Split::train ? "train" : "test"; }

std::vector<std::string> dataset_names() {
  std::vector<std::string> names;
  for (const DatasetEntry& known : registry()) names.push_back(known.info.name);
  return names;
}

DatasetInfo dataset_info(std::string_view name, std::optional<int> image_size) {
  DatasetInfo info = find_entry(name).info;
  if (!image_size) return info;
  REVODE_REQUIRE(info.is_drawn(),
                 "--image-size {} with --dataset {}: its images are {} x {}, expected --dataset "
                 "synthetic, whose images are drawn at any size",
                 *image_size, name, info.image.height, info.image.width);
  info.image.height = info.image.width = *image_size;
  info.num_train_images = num_synthetic_images(Split::train, *image_size);
  info.num_test_images = num_synthetic_images(Split::test, *image_size);
  return info;
}

Dataset load_dataset(const DatasetInfo& info, const fs::path& folder, Split split,
                     Contents contents) {
  const DatasetEntry& wanted = find_entry(info.name);
  if (info.needs_folder) check_folder(wanted, folder, split);
  return wanted.read({info, folder, wanted.files(split), split, contents});
}

void Dataset::keep(std::span<const std::int64_t> indices) {
  if (!has_images()) return;
  const bool keeps_all = static_cast<std::int64_t>(indices.size()) == size;
  if (keeps_all && rows.empty() && pixels.size() > 0) return;
  Buffer<std::uint8_t> kept(indices.size() * info.image.size(), Memory::data);
  if (!draw_image) {
    for (std::size_t row = 0; row < indices.size(); ++row)
      std::ranges::copy(image(indices[row]), kept.data() + row * info.image.size());
  }
  pixels = std::move(kept);
  is_drawn.assign(indices.size(), false);
  rows.clear();
  if (keeps_all) return;
  rows.assign(size, -1);
  for (std::size_t row = 0; row < indices.size(); ++row)
    rows[indices[row]] = static_cast<std::int64_t>(row);
}

std::span<const std::uint8_t> Dataset::image(std::int64_t index) const {
  const std::int64_t row = row_of(index);
  REVODE_ASSERT(row >= 0);
  const std::size_t bytes = info.image.size();
  if (draw_image && pixels.size() == 0) {
    pixels = Buffer<std::uint8_t>(size * bytes, Memory::data);
    is_drawn.assign(size, false);
  }
  const std::span<std::uint8_t> values = pixels.span().subspan(row * bytes, bytes);
  if (draw_image && !is_drawn[row]) {
    draw_image(index, values.data());
    is_drawn[row] = true;
  }
  return values;
}

}  // namespace revode
