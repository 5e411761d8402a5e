// Cutting images of any backend against the reference: not one bit may differ. What is overwritten
// is handed in full of NaN.
#include <cstdint>
#include <vector>

#include <fmt/format.h>

#include "backend/backend_under_test.hpp"

namespace revode {
namespace {

struct Stored {
  Stored(std::int64_t num_images, int channels, int height, int width)
      : pixels(num_images * channels * height * width),
        mean(random_multiples(channels, 1e-6, 1, 2)),
        deviation(random_multiples(channels, 1e-6, 0.5, 3)),
        images{.num_images = num_images, .channels = channels, .height = height, .width = width} {
    RandomStream random(1, Purpose::check, 1);
    for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random.below(256));
    for (float& value : deviation) value = 1 + std::abs(value);
    images.pixels = pixels.data();
    images.mean = mean.data();
    images.deviation = deviation.data();
  }

  std::vector<std::uint8_t> pixels;
  std::vector<float> mean, deviation;
  StoredImages<float> images;
};

/// Every crop, with flip and without, of one image after another.
std::vector<DrawnImage> every_crop(std::int64_t num_images) {
  std::vector<DrawnImage> drawn;
  for (int row = -4; row <= 4; ++row)
    for (int column = -4; column <= 4; ++column)
      for (const bool flip : {false, true})
        drawn.push_back({.index = static_cast<std::int64_t>(3 * drawn.size() % num_images),
                         .row = row,
                         .column = column,
                         .flip = flip});
  return drawn;
}

std::vector<float> cut(Backend<float>& backend, const StoredImages<float>& stored,
                       const std::vector<DrawnImage>& drawn) {
  std::vector<float> images = poison(drawn.size() * stored.image_size());
  backend.cut_images(stored, drawn, images.data());
  return images;
}

TEST_P(AnyBackend, CutImagesEqualReferenceBitForBit) {
  const auto reference = make_reference_backend<float>();
  for (const int num_threads : {1, 3}) {
    const auto tested = make(num_threads);
    // In the last two some crops have nothing of the image.
    for (const Stored& stored : {Stored(2, 3, 32, 32), Stored(7, 1, 5, 7), Stored(4, 5, 9, 8),
                                 Stored(1, 2, 3, 40), Stored(5, 4, 1, 3), Stored(3, 1, 1, 1)}) {
      const StoredImages<float>& images = stored.images;
      SCOPED_TRACE(fmt::format("{} x [{}, {}, {}], {} threads", images.num_images, images.channels,
                               images.height, images.width, num_threads));
      const std::vector<DrawnImage> drawn = every_crop(images.num_images);
      EXPECT_EQ(bits(cut(*tested, images, drawn)), bits(cut(*reference, images, drawn)));
    }
  }
}

TEST_P(AnyBackend, AnImageIsCutTheSameWhateverIsCutWithIt) {
  const auto tested = make(2);
  const Stored stored(4, 3, 6, 5);
  const DrawnImage one{.index = 2, .row = -1, .column = 3, .flip = true};
  const std::vector<float> alone = cut(*tested, stored.images, {one});

  const std::vector<float> all =
      cut(*tested, stored.images, {one, {.index = 3}, one, {.index = 0, .row = 4}, one});

  for (const int n : {0, 2, 4}) {
    const auto first = all.begin() + n * stored.images.image_size();
    EXPECT_EQ(bits({first, first + stored.images.image_size()}), bits(alone)) << n;
  }
}

// x / 255 is x / 255 for every pixel: no multiplication by a rounded 1 / 255.
TEST_P(AnyBackend, EveryPixelIsDividedExactly) {
  const auto tested = make(1);
  Stored stored(1, 1, 16, 16);
  for (int i = 0; i < 256; ++i) stored.pixels[i] = static_cast<std::uint8_t>(i);

  const std::vector<float> image = cut(*tested, stored.images, {{}});

  std::vector<float> expected(256);
  for (int i = 0; i < 256; ++i)
    expected[i] = (static_cast<float>(i) / 255.0f - stored.mean[0]) / stored.deviation[0];
  EXPECT_EQ(bits(image), bits(expected));
}

}  // namespace
}  // namespace revode
