// Readers of the publishers' formats, on small files made here, good and damaged; and how hard the
// built-in images are.
#include "revode/data/dataset.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <numbers>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "revode/core/error.hpp"
#include "revode/core/host_memory.hpp"

#include "support/error_text.hpp"
#include "support/temporary_folder.hpp"

namespace revode {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Bytes = std::vector<unsigned char>;

constexpr int cifar_image_bytes = 3072;

/// Records of `label_bytes` then an image whose byte j is (7 * record + j) mod 251.
Bytes cifar_file(const std::vector<Bytes>& labels) {
  Bytes bytes;
  for (std::size_t record = 0; record < labels.size(); ++record) {
    bytes.insert(bytes.end(), labels[record].begin(), labels[record].end());
    for (std::size_t j = 0; j < cifar_image_bytes; ++j) {
      bytes.push_back(static_cast<unsigned char>((7 * record + j) % 251));
    }
  }
  return bytes;
}

void write_cifar10(const std::filesystem::path& folder) {
  for (unsigned char i = 1; i <= 5; ++i) {
    write_bytes(folder / ("data_batch_" + std::to_string(i) + ".bin"), cifar_file({{i}, {0}}));
  }
  write_bytes(folder / "test_batch.bin", cifar_file({{9}, {3}, {4}}));
}

std::string load_error(const std::string& name, const std::filesystem::path& folder,
                       Split split = Split::train,
                       Contents contents = Contents::images_and_labels) {
  return error_text(ExitStatus::bad_input,
                    [&] { load_dataset(dataset_info(name), folder, split, contents); });
}

std::vector<int> labels_of(const Dataset& dataset) {
  return {dataset.labels.begin(), dataset.labels.end()};
}

TEST(Cifar10, ReadsAllFiveFilesInOrder) {
  const TemporaryFolder folder;
  write_cifar10(folder.path());

  const Dataset train = load_dataset(dataset_info("cifar10"), folder.path(), Split::train,
                                     Contents::images_and_labels);

  EXPECT_EQ(train.size, 10);
  EXPECT_EQ(labels_of(train), (std::vector<int>{1, 0, 2, 0, 3, 0, 4, 0, 5, 0}));
  ASSERT_EQ(train.pixels.size(), 10u * cifar_image_bytes);
  for (int i = 0; i < 10; ++i) {
    for (int j : {0, 1, 1024, 3071}) EXPECT_EQ(train.image(i)[j], (7 * (i % 2) + j) % 251);
  }
}

TEST(Cifar10, LabelsAloneEqualThoseReadWithImages) {
  const TemporaryFolder folder;
  write_cifar10(folder.path());

  const Dataset labels =
      load_dataset(dataset_info("cifar10"), folder.path(), Split::test, Contents::labels_only);

  EXPECT_EQ(labels.size, 3);
  EXPECT_EQ(labels_of(labels), (std::vector<int>{9, 3, 4}));
  EXPECT_EQ(labels.pixels.size(), 0u);
}

TEST(Cifar100, UsesTheFineLabel) {
  const TemporaryFolder folder;
  write_bytes(folder / "train.bin", cifar_file({{19, 99}, {3, 42}}));

  const Dataset both = load_dataset(dataset_info("cifar100"), folder.path(), Split::train,
                                    Contents::images_and_labels);
  const Dataset labels =
      load_dataset(dataset_info("cifar100"), folder.path(), Split::train, Contents::labels_only);

  EXPECT_EQ(labels_of(both), (std::vector<int>{99, 42}));
  EXPECT_EQ(labels_of(labels), labels_of(both));
  EXPECT_EQ(both.image(1)[0], 7);
}

TEST(Stl10, TransposesColumnMajorPlanesAndCountsLabelsFromZero) {
  const TemporaryFolder folder;
  // Pixel at row y, column x of plane p is (3 x + 5 y + 11 p) mod 256; on file x runs slowest.
  Bytes image;
  for (int p = 0; p < 3; ++p) {
    for (int x = 0; x < 96; ++x) {
      for (int y = 0; y < 96; ++y)
        image.push_back(static_cast<unsigned char>(3 * x + 5 * y + 11 * p));
    }
  }
  Bytes images = image;
  images.insert(images.end(), image.begin(), image.end());
  write_bytes(folder / "test_X.bin", images);
  write_bytes(folder / "test_y.bin", {1, 10});

  const Dataset test =
      load_dataset(dataset_info("stl10"), folder.path(), Split::test, Contents::images_and_labels);
  const Dataset labels =
      load_dataset(dataset_info("stl10"), folder.path(), Split::test, Contents::labels_only);

  EXPECT_EQ(labels_of(test), (std::vector<int>{0, 9}));
  EXPECT_EQ(labels_of(labels), labels_of(test));
  for (int p = 0; p < 3; ++p) {
    for (int y : {0, 1, 40, 95}) {
      for (int x : {0, 2, 95}) {
        EXPECT_EQ(test.image(1)[(p * 96 + y) * 96 + x], (3 * x + 5 * y + 11 * p) % 256);
      }
    }
  }
}

TEST(DatasetErrors, UnknownNameListsTheKnownOnes) {
  EXPECT_THAT(error_text(ExitStatus::bad_input, [] { dataset_info("mnist"); }),
              AllOf(HasSubstr("'mnist'"), HasSubstr("synthetic, cifar10, cifar100, stl10")));
}

TEST(DatasetErrors, FolderThatIsMissingOrAFileIsNamed) {
  const TemporaryFolder folder;
  write_bytes(folder / "file", {1});

  EXPECT_THAT(load_error("cifar10", folder / "nowhere"),
              AllOf(HasSubstr("nowhere"), HasSubstr("does not exist")));
  EXPECT_THAT(load_error("cifar10", folder / "file"), HasSubstr("is a file"));
  EXPECT_THAT(load_error("cifar10", ""), HasSubstr("--data-dir"));
}

TEST(DatasetErrors, MoreThanTheHostsMemoryIsRefusedBeforeItIsTaken) {
  const TemporaryFolder folder;
  write_cifar10(folder.path());
  write_bytes(folder / "train_y.bin", {1});
  const std::uintmax_t records = host_memory_bytes() / cifar_image_bytes + 1;
  // Holes: these files take no room on the disk.
  std::filesystem::resize_file(folder / "data_batch_3.bin", records * (1 + cifar_image_bytes));
  write_bytes(folder / "train_X.bin", {1});
  std::filesystem::resize_file(folder / "train_X.bin", records * 3 * 96 * 96);
  std::filesystem::resize_file(folder / "train_y.bin", records);

  EXPECT_THAT(load_error("cifar10", folder.path()),
              AllOf(HasSubstr("data_batch_3.bin"),
                    HasSubstr(fmt::format("has {} bytes", records * (1 + cifar_image_bytes))),
                    HasSubstr(fmt::format("this host has {}", host_memory_bytes()))));
  EXPECT_THAT(load_error("stl10", folder.path()),
              AllOf(HasSubstr("train_X.bin"), HasSubstr("this host has")));
  EXPECT_EQ(load_error("cifar10", folder.path(), Split::test), "");
}

TEST(DatasetErrors, WhatIsNoRegularFileIsRefusedAndNotWaitedFor) {
  const TemporaryFolder folder;
  write_cifar10(folder.path());
  std::filesystem::remove(folder / "test_batch.bin");
  ASSERT_EQ(mkfifo((folder / "test_batch.bin").c_str(), 0600), 0);
  EXPECT_THAT(load_error("cifar10", folder.path(), Split::test),
              AllOf(HasSubstr("test_batch.bin"), HasSubstr("is a FIFO, expected a regular file")));

  std::filesystem::remove(folder / "test_batch.bin");
  std::filesystem::create_symlink("/dev/zero", folder / "test_batch.bin");
  EXPECT_THAT(load_error("cifar10", folder.path(), Split::test),
              HasSubstr("is a device, expected a regular file"));
}

TEST(DatasetErrors, EveryOneOfTheFiveFilesIsNeeded) {
  const TemporaryFolder folder;
  write_cifar10(folder.path());
  std::filesystem::remove(folder / "data_batch_4.bin");

  EXPECT_THAT(load_error("cifar10", folder.path()), HasSubstr("data_batch_4.bin"));
  EXPECT_EQ(load_error("cifar10", folder.path(), Split::test), "");
}

TEST(DatasetErrors, AnotherDatasetsFolderIsRecognised) {
  const TemporaryFolder folder;
  write_bytes(folder / "train.bin", cifar_file({{1, 2}}));

  EXPECT_THAT(load_error("cifar10", folder.path()),
              AllOf(HasSubstr("looks like CIFAR-100"), HasSubstr("--dataset cifar100")));
}

TEST(DatasetErrors, TheRightSubfolderIsFound) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "cifar-10-batches-bin");
  write_cifar10(folder / "cifar-10-batches-bin");

  EXPECT_THAT(load_error("cifar10", folder.path()),
              HasSubstr("--data-dir " + (folder / "cifar-10-batches-bin").string()));
}

TEST(DatasetErrors, ThePythonVersionIsRecognised) {
  const TemporaryFolder folder;
  write_bytes(folder / "test_batch", {1});

  EXPECT_THAT(load_error("cifar10", folder.path(), Split::test), HasSubstr("Python"));
}

TEST(DatasetErrors, SizesThatAreNoWholeNumberOfRecordsAreCounted) {
  const TemporaryFolder folder;
  Bytes bytes = cifar_file({{1}, {2}});
  bytes.pop_back();
  write_bytes(folder / "test_batch.bin", bytes);

  for (const Contents contents : {Contents::images_and_labels, Contents::labels_only}) {
    EXPECT_THAT(
        load_error("cifar10", folder.path(), Split::test, contents),
        AllOf(HasSubstr("test_batch.bin"), HasSubstr("6145 bytes"), HasSubstr("multiple of 3073")));
  }
  write_bytes(folder / "test_batch.bin", {});
  EXPECT_THAT(load_error("cifar10", folder.path(), Split::test), HasSubstr("is empty"));
  std::filesystem::remove(folder / "test_batch.bin");
  std::filesystem::create_directory(folder / "test_batch.bin");
  EXPECT_THAT(load_error("cifar10", folder.path(), Split::test), HasSubstr("is a folder"));
}

TEST(DatasetErrors, LabelsOutOfRangeNameTheirRecord) {
  const TemporaryFolder folder;
  write_bytes(folder / "test_batch.bin", cifar_file({{9}, {9}, {10}}));
  write_bytes(folder / "test.bin", cifar_file({{0, 100}}));
  write_bytes(folder / "test_X.bin", Bytes(3 * 96 * 96));
  write_bytes(folder / "test_y.bin", {0});

  for (const Contents contents : {Contents::images_and_labels, Contents::labels_only}) {
    EXPECT_THAT(load_error("cifar10", folder.path(), Split::test, contents),
                AllOf(HasSubstr("label 10"), HasSubstr("record 2"), HasSubstr("0 to 9")));
    EXPECT_THAT(load_error("cifar100", folder.path(), Split::test, contents),
                AllOf(HasSubstr("label 100"), HasSubstr("0 to 99")));
    EXPECT_THAT(load_error("stl10", folder.path(), Split::test, contents),
                AllOf(HasSubstr("label 0"), HasSubstr("1 to 10")));
  }
}

TEST(DatasetErrors, ImagesAndLabelsMustBeAsMany) {
  const TemporaryFolder folder;
  write_bytes(folder / "test_X.bin", Bytes(2 * 3 * 96 * 96));
  write_bytes(folder / "test_y.bin", {1, 2, 3});

  EXPECT_THAT(load_error("stl10", folder.path(), Split::test),
              AllOf(HasSubstr("2 images"), HasSubstr("3 labels")));
}

TEST(Kept, ImagesAreThoseOfTheWholeSetInLessMemory) {
  const TemporaryFolder folder;
  write_cifar10(folder.path());
  const std::vector<std::int64_t> indices{1, 4, 6};
  const auto load = [&](const char* name) {
    return load_dataset(dataset_info(name), folder.path(), Split::train,
                        Contents::images_and_labels);
  };
  for (const char* name : {"cifar10", "synthetic"}) {
    SCOPED_TRACE(name);
    const Dataset whole = load(name);
    Dataset part = load(name);

    part.keep(indices);

    EXPECT_EQ(part.size, whole.size);
    EXPECT_EQ(labels_of(part), labels_of(whole));
    EXPECT_EQ(part.num_rows(), 3);
    for (std::int64_t row = 0; row < 3; ++row) {
      EXPECT_EQ(part.row_of(indices[row]), row);
      EXPECT_TRUE(std::ranges::equal(part.image(indices[row]), whole.image(indices[row])));
    }
    EXPECT_EQ(dataset_digest(part, indices), dataset_digest(whole, indices));
  }
}

TEST(Kept, LabelsAloneStayWithoutImages) {
  Dataset labels = load_dataset(dataset_info("synthetic"), "", Split::test, Contents::labels_only);

  labels.keep(std::vector<std::int64_t>{2, 5});

  EXPECT_FALSE(labels.has_images());
  EXPECT_EQ(labels.size, 1000);
}

// The built-in images.

Dataset synthetic(Split split, Contents contents = Contents::images_and_labels, int side = 32) {
  return load_dataset(dataset_info("synthetic", side), "", split, contents);
}

Dataset test_images(int side) { return synthetic(Split::test, Contents::images_and_labels, side); }

TEST(Synthetic, ClassesAreBalancedAndLabelsNeedNoImages) {
  for (const Split split : {Split::train, Split::test}) {
    const Dataset labels = synthetic(split, Contents::labels_only);

    std::vector<int> counts(10);
    for (const int label : labels_of(labels)) ++counts[label];

    EXPECT_EQ(labels.size, split == Split::train ? 8000 : 1000);
    EXPECT_EQ(labels.pixels.size(), 0u);
    EXPECT_EQ(counts, std::vector<int>(10, static_cast<int>(labels.size / 10)));
  }
}

/// 64-bit FNV-1a of the first images.
std::uint64_t hash_of(const Dataset& dataset, std::int64_t num_images) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::int64_t i = 0; i < num_images; ++i)
    for (const std::uint8_t byte : dataset.image(i)) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

TEST(Synthetic, ImagesAreTheSameEverywhere) {
  // Recorded when the set was made; whoever changes the images changes every result ever reported
  // on them.
  EXPECT_EQ(hash_of(test_images(32), 1000), 6157227601524945832u);
  EXPECT_EQ(hash_of(test_images(48), 50), 10290414683850446888u);
  EXPECT_EQ(hash_of(test_images(224), 2), 6866595925571767368u);
}

TEST(Synthetic, LargerImagesAreFewerAndHoldNoMorePixels) {
  const DatasetInfo usual = dataset_info("synthetic", 128);
  EXPECT_EQ(usual.num_train_images, 8000);
  EXPECT_EQ(dataset_info("synthetic", 16).num_train_images, 8000);
  const auto pixels = [](const DatasetInfo& info) {
    return info.num_train_images * info.image.size();
  };
  for (const int side : {129, 224, 256, 1000, 1024}) {
    SCOPED_TRACE(side);
    const DatasetInfo info = dataset_info("synthetic", side);

    EXPECT_EQ(info.image, (ImageShape{3, side, side}));
    EXPECT_LE(pixels(info), pixels(usual));
    EXPECT_EQ(synthetic(Split::train, Contents::labels_only, side).size, info.num_train_images);
    EXPECT_EQ(synthetic(Split::test, Contents::labels_only, side).size, info.num_test_images);
    for (const Split split : {Split::train, Split::test}) {
      const Dataset labels = synthetic(split, Contents::labels_only, side);
      std::vector<int> counts(10);
      for (const int label : labels_of(labels)) ++counts[label];
      EXPECT_GT(labels.size, 0);
      EXPECT_EQ(counts, std::vector<int>(10, static_cast<int>(labels.size / 10)));
    }
  }
  EXPECT_EQ(dataset_info("synthetic", 256).num_train_images, 2000);
}

// Block by block the mean of a larger image is the small one's pixel, but for what differs: noise,
// of a deviation up to 0.2 in every pixel, and stripes that a pixel of the small one takes at its
// middle.
TEST(Synthetic, AnyImageShowsTheSameSceneAtAnySize) {
  const Dataset small = test_images(32);
  for (const int factor : {2, 3, 7}) {
    const Dataset large = test_images(32 * factor);
    const int side = 32 * factor;
    for (int i = 0; i < 20; ++i) {
      const auto of_large_image = large.image(i), of_small_image = small.image(i);
      double product = 0, of_small = 0, of_large = 0, sums[2] = {0, 0};
      for (int place = 0; place < 3 * 1024; ++place) {
        double mean = 0;
        const int channel = place / 1024, y = place / 32 % 32, x = place % 32;
        for (int dy = 0; dy < factor; ++dy)
          for (int dx = 0; dx < factor; ++dx)
            mean += of_large_image[(channel * side + factor * y + dy) * side + factor * x + dx];
        mean /= factor * factor;
        const double pixel = of_small_image[place];
        sums[0] += pixel;
        sums[1] += mean;
        product += pixel * mean;
        of_small += pixel * pixel;
        of_large += mean * mean;
      }
      constexpr double count = 3 * 1024;
      const double correlation =
          (product - sums[0] * sums[1] / count) / std::sqrt((of_small - sums[0] * sums[0] / count) *
                                                            (of_large - sums[1] * sums[1] / count));
      EXPECT_GT(correlation, 0.5) << "image " << i << ", " << factor << " times the size";
    }
  }
}

// What is drawn does not depend on what was drawn before, nor on which split asks.
TEST(Synthetic, LargerImagesAreTheSameInAnyOrder) {
  const Dataset forward = test_images(48), backward = test_images(48);
  for (int i = 0; i < 20; ++i) forward.image(i);
  for (int i = 19; i >= 0; --i)
    EXPECT_TRUE(std::ranges::equal(backward.image(i), forward.image(i))) << i;
}

TEST(Synthetic, OnlyImagesThatAreDrawnHaveAnySize) {
  EXPECT_THAT(
      error_text(ExitStatus::bad_input, [] { dataset_info("stl10", 48); }),
      AllOf(HasSubstr("--image-size 48"), HasSubstr("--dataset stl10"), HasSubstr("96 x 96")));
}

/// Grey values, 0 .. 1.
std::vector<double> grey(const Dataset& dataset, std::int64_t index) {
  std::vector<double> values(1024);
  for (int i = 0; i < 1024; ++i) {
    for (int c = 0; c < 3; ++c) values[i] += dataset.image(index)[c * 1024 + i] / 765.0;
  }
  return values;
}

/// Share of `test` whose class has the largest score.
template <typename Scores>
double accuracy(const Dataset& test, Scores&& scores) {
  int right = 0;
  for (std::int64_t i = 0; i < test.size; ++i) {
    const std::vector<double> values = scores(i);
    const auto best = std::max_element(values.begin(), values.end()) - values.begin();
    right += best == test.labels[i];
  }
  return right / static_cast<double>(test.size);
}

/// All 3072 pixels, centred, and a constant.
std::vector<double> pixel_features(const Dataset& dataset, std::int64_t index) {
  std::vector<double> features;
  for (const std::uint8_t byte : dataset.image(index)) features.push_back(byte / 255.0 - 0.5);
  features.push_back(1);
  return features;
}

// Multinomial logistic regression on the pixels of 2000 images, by stochastic gradient descent.
TEST(Synthetic, LinearModelOfThePixelsStaysFarBehind) {
  const Dataset train = synthetic(Split::train);
  const Dataset test = synthetic(Split::test);
  constexpr int num_features = 3073;
  std::vector<std::vector<double>> weights(10, std::vector<double>(num_features));
  const auto scores = [&](const std::vector<double>& features) {
    std::vector<double> values;
    for (const auto& row : weights) {
      values.push_back(std::inner_product(row.begin(), row.end(), features.begin(), 0.0));
    }
    return values;
  };

  for (int epoch = 0; epoch < 4; ++epoch) {
    for (int i = 0; i < 2000; ++i) {
      const std::vector<double> features = pixel_features(train, i);
      std::vector<double> shares = scores(features);
      double sum = 0;
      for (double& share : shares) sum += share = std::exp(share);
      for (int c = 0; c < 10; ++c) {
        const double error = (c == train.labels[i]) - shares[c] / sum;
        for (int j = 0; j < num_features; ++j) weights[c][j] += 0.002 * error * features[j];
      }
    }
  }

  const double share =
      accuracy(test, [&](std::int64_t i) { return scores(pixel_features(test, i)); });
  RecordProperty("accuracy", std::to_string(share));
  EXPECT_LT(share, 0.3);
}

constexpr int window = 12;
using Wave = std::array<std::complex<double>, window * window>;

/// Windowed waves of 4 periods, each in 8 directions.
std::vector<Wave> make_waves() {
  std::vector<Wave> waves;
  for (const double period : {4.0, 5.3, 7.0, 9.5}) {
    for (int step = 0; step < 8; ++step) {
      const double angle = step * std::numbers::pi / 8;
      const double u = 2 * std::numbers::pi / period * std::cos(angle);
      const double v = 2 * std::numbers::pi / period * std::sin(angle);
      Wave& wave = waves.emplace_back();
      for (int y = 0; y < window; ++y) {
        for (int x = 0; x < window; ++x) {
          const double hann = std::sin(std::numbers::pi * (x + 0.5) / window) *
                              std::sin(std::numbers::pi * (y + 0.5) / window);
          wave[y * window + x] = hann * hann * std::polar(1.0, u * x + v * y);
        }
      }
    }
  }
  return waves;
}

/// Energy of the image's local waves, by direction and period: squared windowed Fourier sums,
/// averaged over places.
std::vector<double> wave_energies(const Dataset& dataset, std::int64_t index) {
  static const std::vector<Wave> waves = make_waves();
  const std::vector<double> image = grey(dataset, index);
  std::vector<double> energies;
  for (const Wave& wave : waves) {
    double energy = 0;
    for (int top = 0; top + window <= 32; top += 5) {
      for (int left = 0; left + window <= 32; left += 5) {
        std::complex<double> sum = 0;
        for (int y = 0; y < window; ++y)
          for (int x = 0; x < window; ++x)
            sum += image[(top + y) * 32 + left + x] * wave[y * window + x];
        energy += std::norm(sum);
      }
    }
    energies.push_back(std::log(energy));
  }
  // Mirrored directions are the same class: add their energies.
  std::vector<double> folded;
  for (int period = 0; period < 4; ++period) {
    const double* of = energies.data() + 8 * period;
    folded.insert(folded.end(), {of[0], of[4], std::max(of[2], of[6]), std::min(of[2], of[6]),
                                 std::max(of[1], of[7]), std::min(of[1], of[7]),
                                 std::max(of[3], of[5]), std::min(of[3], of[5])});
  }
  // Contrast must not matter.
  const double mean =
      std::accumulate(folded.begin(), folded.end(), 0.0) / static_cast<double>(folded.size());
  for (double& value : folded) value -= mean;
  return folded;
}

TEST(Synthetic, WaveEnergiesTellTheClassesApart) {
  const Dataset train = synthetic(Split::train);
  const Dataset test = synthetic(Split::test);
  std::vector<std::vector<double>> means(10);
  for (int i = 0; i < 1000; ++i) {
    const std::vector<double> energies = wave_energies(train, i);
    std::vector<double>& mean = means[train.labels[i]];
    mean.resize(energies.size());
    for (std::size_t j = 0; j < energies.size(); ++j) mean[j] += energies[j] / 100;
  }

  const double share = accuracy(test, [&](std::int64_t i) {
    const std::vector<double> energies = wave_energies(test, i);
    std::vector<double> closeness;
    for (const auto& mean : means) {
      double distance = 0;
      for (std::size_t j = 0; j < mean.size(); ++j) distance += std::pow(energies[j] - mean[j], 2);
      closeness.push_back(-distance);
    }
    return closeness;
  });

  RecordProperty("accuracy", std::to_string(share));
  EXPECT_GT(share, 0.6);
}

}  // namespace
}  // namespace revode
