// The built-in images: patches of ten textures, drawn from counter-based random numbers, the same
// on every machine and for every --seed. Nothing is read.
//
// A class is a texture. Phase, tilt, exact period, colours (either may be the lighter), place, size
// and outline of the patch, lighting, distracting discs and noise vary freely. So the mean image of
// every class is the same and a linear model of the pixels learns next to nothing, while a few
// convolutions tell orientations and periods apart. Mirroring and shifting keep a texture's class:
// diagonals lean either way.
//
// A scene is laid out on a canvas of 32 x 32 and seen through as many pixels as are asked for:
// image i of any side shows the same scene, with noise of its own in every pixel.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include "revode/core/random.hpp"

#include "data/dataset_readers.hpp"

namespace revode {

namespace {

constexpr std::uint64_t synthetic_seed = 20180702;  // Part of what the dataset is: never change.
constexpr std::int64_t most_train_images = 8000;
constexpr std::int64_t most_test_images = 1000;
constexpr std::int64_t full_set_side = 128;  // up to which there are so many
constexpr int canvas = 32;
constexpr int num_textures = 10;
constexpr double pi = std::numbers::pi;

using Colour = std::array<double, 3>;  // R, G, B in 0 .. 1

struct Disc {
  double x, y, radius;
  Colour colour;
};

enum class Pattern { stripes, checkers, rings, spots };

/// How a class is drawn. Directions are those of the wave, in degrees from the x axis. Lengths here
/// and below are the canvas's.
struct Texture {
  Pattern pattern;
  double direction;
  bool either_way;  ///< leans left or right with equal chance
  double shortest_period, longest_period;
};

// Narrow and wide periods leave a gap, so that noise and not the label is what makes an image hard.
constexpr std::array<Texture, num_textures> textures{{
    {Pattern::stripes, 90, false, 3.6, 5.6},    // 0 lying, narrow
    {Pattern::stripes, 90, false, 7.0, 11.0},   // 1 lying, wide
    {Pattern::stripes, 0, false, 3.6, 5.6},     // 2 upright, narrow
    {Pattern::stripes, 0, false, 7.0, 11.0},    // 3 upright, wide
    {Pattern::stripes, 45, true, 3.6, 5.6},     // 4 diagonal, narrow
    {Pattern::stripes, 45, true, 7.0, 11.0},    // 5 diagonal, wide
    {Pattern::checkers, 0, false, 7.0, 11.0},   // 6 chessboard
    {Pattern::checkers, 45, false, 7.0, 11.0},  // 7 chessboard on its corner
    {Pattern::rings, 0, false, 5.0, 8.0},       // 8 rings around a point
    {Pattern::spots, 0, false, 5.5, 8.0},       // 9 spots strewn on a loose grid
}};

/// Everything random about an image but its noise.
struct Scene {
  Texture texture;
  double cosine, sine;  // of the direction
  double period;
  double phase_x, phase_y;    // 0 .. 2 pi
  double centre_x, centre_y;  // of the rings
  double patch_x, patch_y, patch_radius;
  int patch_power;
  double light_x, light_y;     // brightness gradient
  double noise;                // standard deviation, of 0 .. 1
  Colour dark, light, ground;  // the two colours of the texture; what surrounds the patch
  std::vector<Disc> discs;
  std::array<double, 16> jitter;  // of the spots
};

/// Hue (turns), saturation and value to R, G, B.
Colour from_hsv(double hue, double saturation, double value) {
  Colour colour;
  for (int i = 0; i < 3; ++i) {
    const double turn = hue + (3 - i) / 3.0;
    const double ramp = std::abs((turn - std::floor(turn)) * 6 - 3) - 1;
    colour[i] = value * (1 - saturation * (1 - std::clamp(ramp, 0.0, 1.0)));
  }
  return colour;
}

/// colour <- colour + share (over - colour)
void blend(Colour& colour, const Colour& over, double share) {
  for (int i = 0; i < 3; ++i) colour[i] += share * (over[i] - colour[i]);
}

Scene draw_scene(int label, RandomStream& random) {
  Scene scene{};
  scene.texture = textures[label];
  const bool mirrored = random.below(2) == 1;
  double direction = scene.texture.direction + random.uniform(-12, 12);
  if (scene.texture.either_way && mirrored) direction = -direction;
  scene.cosine = std::cos(direction * (pi / 180));
  scene.sine = std::sin(direction * (pi / 180));
  scene.period = random.uniform(scene.texture.shortest_period, scene.texture.longest_period);
  scene.phase_x = random.uniform(0, 2 * pi);
  scene.phase_y = random.uniform(0, 2 * pi);
  scene.centre_x = random.uniform(8, canvas - 8);
  scene.centre_y = random.uniform(8, canvas - 8);
  scene.patch_x = random.uniform(13, canvas - 13);
  scene.patch_y = random.uniform(13, canvas - 13);
  scene.patch_radius = random.uniform(8.5, 15);
  scene.patch_power = random.below(2) == 1 ? 2 : 6;  // disc or rounded square
  scene.light_x = random.uniform(-0.010, 0.010);
  scene.light_y = random.uniform(-0.010, 0.010);
  scene.noise = random.uniform(0.04, 0.20);

  const double hue = random.uniform();
  scene.dark = from_hsv(hue, random.uniform(0.3, 0.9), random.uniform(0.15, 0.5));
  scene.light = from_hsv(hue + random.uniform(0.15, 0.85), random.uniform(0.1, 0.7),
                         random.uniform(0.65, 1.0));
  scene.ground = from_hsv(random.uniform(), random.uniform(0.1, 0.6), random.uniform(0.2, 0.9));
  blend(scene.dark, scene.light, random.uniform(0, 0.5));  // from strong to weak contrast
  if (random.below(2) == 1) std::swap(scene.dark, scene.light);
  scene.discs.resize(1 + random.below(5));
  for (Disc& disc : scene.discs) {
    disc.x = random.uniform(0, canvas);
    disc.y = random.uniform(0, canvas);
    disc.radius = random.uniform(1.5, 4.5);
    disc.colour = from_hsv(random.uniform(), random.uniform(0.2, 0.9), random.uniform(0.2, 1.0));
  }
  for (double& jitter : scene.jitter) jitter = random.uniform(-0.22, 0.22);
  return scene;
}

/// The canvas as pixels see it.
struct View {
  int side;                                           // pixels
  double scale = static_cast<double>(side) / canvas;  // pixels a unit of the canvas
  double position(int pixel) const {                  // of its middle, on the canvas
    return (pixel + 0.5) / scale - 0.5;
  }
  double pixel_size = 1 / scale;  // on the canvas
  /// 0 outside, 1 inside, one pixel of blending; `distance` is positive inside.
  double edge(double distance) const { return std::clamp(scale * distance + 0.5, 0.0, 1.0); }
};

/// The share of a round shape that lies at a distance r from its middle, without the root that r is
/// where that is plain: edge(radius - r) for r = r_power ^ (1 / power). Squares or sixth powers
/// within a millionth of where blending begins are left to edge(): so far rounding never reaches.
class Outline {
 public:
  Outline(const View& view, double radius, int power) : view_(view), radius_(radius) {
    const auto to_power = [&](double length) {
      const double square = length * length;
      return power == 2 ? square : square * square * square;
    };
    inside_ = (1 - margin) * to_power(std::max(radius - 0.5 * view.pixel_size, 0.0));
    outside_ = (1 + margin) * to_power(radius + 0.5 * view.pixel_size);
  }
  /// distance(): r.
  template <typename Distance>
  double share(double r_power, Distance&& distance) const {
    if (r_power > outside_) return 0;
    if (r_power < inside_) return 1;
    return view_.edge(radius_ - distance());
  }

 private:
  static constexpr double margin = 1e-6;
  View view_;
  double radius_, inside_, outside_;
};

/// A wave with steepened flanks, -1 .. 1.
double wave(double angle) { return std::clamp(1.8 * std::sin(angle), -1.0, 1.0); }

/// Four bytes added up are nearly normal: mean 510, variance 4 (256^2 - 1) / 12.
std::uint32_t sum_of_bytes(std::uint32_t bits) {
  return (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + (bits >> 24);
}

/// Noise of mean 0 and standard deviation 1, by the sum of four bytes.
using NoiseOfBytes = std::array<double, 4 * 255 + 1>;
const NoiseOfBytes& noise_of_bytes() {
  static const NoiseOfBytes noise = [] {
    NoiseOfBytes values{};
    for (std::size_t sum = 0; sum < values.size(); ++sum)
      values[sum] = (static_cast<double>(sum) - 510) / 147.8;
    return values;
  }();
  return noise;
}

/// std::lround() of 0 .. 255. The difference is exact, so that halves alone are rounded up.
std::uint8_t rounded(double value) {
  const int below = static_cast<int>(value);
  return static_cast<std::uint8_t>(below + (value - below >= 0.5 ? 1 : 0));
}

/// A scene as pixels see it: what is the same for many of them is worked out once.
class Picture {
 public:
  Picture(const Scene& scene, const View& view)
      : scene_(scene),
        view_(view),
        texture_scale_(2 * pi / scene.period),
        patch_(view, scene.patch_radius, scene.patch_power),
        spot_(view, 0.28 * scene.period, 2) {
    for (const Disc& disc : scene.discs) discs_.push_back({disc, Outline(view, disc.radius, 2)});
    for (int i = 0; i < view.side; ++i) positions_.push_back(view.position(i));
  }

  /// pixels [3, side, side]
  void render(RandomStream& random, std::uint8_t* pixels) {
    const NoiseOfBytes& noise = noise_of_bytes();
    for (int y = 0; y < view_.side; ++y) {
      begin_row(positions_[y]);
      for (int x = 0; x < view_.side; ++x) {
        const Colour colour = colour_at(positions_[x], positions_[y]);
        for (int channel = 0; channel < 3; ++channel) {
          const double value = colour[channel] + scene_.noise * noise[sum_of_bytes(random.bits())];
          pixels[(channel * view_.side + y) * view_.side + x] =
              rounded(255 * std::clamp(value, 0.0, 1.0));
        }
      }
    }
  }

 private:
  struct OutlinedDisc {
    Disc disc;
    Outline outline;
  };

  void begin_row(double y) {
    discs_of_row_.clear();
    for (const OutlinedDisc& one : discs_)
      if (std::abs(y - one.disc.y) <= one.disc.radius + view_.pixel_size)
        discs_of_row_.push_back(&one);
  }

  /// The share of the texture's light colour at (x, y), 0 .. 1.
  double texture_value(double x, double y) const {
    const double along = x * scene_.cosine + y * scene_.sine;
    const double across = y * scene_.cosine - x * scene_.sine;
    switch (scene_.texture.pattern) {
      case Pattern::stripes:
        return 0.5 + 0.5 * wave(texture_scale_ * along + scene_.phase_x);
      case Pattern::checkers:
        return 0.5 + 0.5 * std::clamp(1.8 * wave(texture_scale_ * along + scene_.phase_x) *
                                          wave(texture_scale_ * across + scene_.phase_y),
                                      -1.0, 1.0);
      case Pattern::rings:
        return 0.5 +
               0.5 * wave(texture_scale_ * std::hypot(x - scene_.centre_x, y - scene_.centre_y) +
                          scene_.phase_x);
      case Pattern::spots: {
        // One spot a cell of the grid, pushed from the cell's middle by the jitter of its place.
        const double u = along / scene_.period + scene_.phase_x;
        const double v = across / scene_.period + scene_.phase_y;
        const int column = static_cast<int>(std::floor(u));
        const int row = static_cast<int>(std::floor(v));
        const double from_u = u - column - (0.5 + scene_.jitter[(5 * column + 3 * row) & 15]);
        const double from_v = v - row - (0.5 + scene_.jitter[(3 * column + 7 * row + 8) & 15]);
        const double period = scene_.period;
        return spot_.share(period * period * (from_u * from_u + from_v * from_v),
                           [&] { return period * std::hypot(from_u, from_v); });
      }
    }
    return 0;
  }

  Colour colour_at(double x, double y) const {
    // Inside the patch: |dx|^p + |dy|^p < r^p, a disc for p = 2, a rounded square for p = 6.
    const double dx = (x - scene_.patch_x) * (x - scene_.patch_x);
    const double dy = (y - scene_.patch_y) * (y - scene_.patch_y);
    const double patch_share = scene_.patch_power == 2
                                   ? patch_.share(dx + dy, [&] { return std::sqrt(dx + dy); })
                                   : patch_.share(dx * dx * dx + dy * dy * dy, [&] {
                                       return std::cbrt(std::sqrt(dx * dx * dx + dy * dy * dy));
                                     });
    Colour colour = scene_.ground;
    if (patch_share > 0) {
      Colour texture = scene_.dark;
      blend(texture, scene_.light, texture_value(x, y));
      blend(colour, texture, patch_share);
    }

    for (const OutlinedDisc* one : discs_of_row_) {
      const Disc& disc = one->disc;
      const double from_x = x - disc.x, from_y = y - disc.y;
      const double share = one->outline.share(from_x * from_x + from_y * from_y,
                                              [&] { return std::hypot(from_x, from_y); });
      if (share > 0) blend(colour, disc.colour, share);
    }
    constexpr double middle = canvas / 2.0;
    const double brightness = 1 + scene_.light_x * (x - middle) + scene_.light_y * (y - middle);
    for (double& channel : colour) channel *= brightness;
    return colour;
  }

  const Scene& scene_;
  View view_;
  double texture_scale_;
  Outline patch_, spot_;
  std::vector<OutlinedDisc> discs_;
  std::vector<const OutlinedDisc*> discs_of_row_;
  std::vector<double> positions_;  // of pixels on the canvas
};

}  // namespace

std::int64_t num_synthetic_images(Split split, int side) {
  const std::int64_t most = split == Split::train ? most_train_images : most_test_images;
  if (side <= full_set_side) return most;
  const std::int64_t as_many_pixels = most * full_set_side * full_set_side / side / side;
  return as_many_pixels / num_textures * num_textures;
}

Dataset read_synthetic(const ReadRequest& request) {
  const View view{request.info.image.width};
  const Purpose purpose =
      request.split == Split::train ? Purpose::synthetic_train : Purpose::synthetic_test;
  Dataset dataset{
      request.info, request.split, num_synthetic_images(request.split, view.side), {}, {}};
  // Classes take turns, so that any run of ten images holds each once.
  dataset.labels = Buffer<std::uint8_t>(dataset.size, Memory::data);
  for (std::int64_t i = 0; i < dataset.size; ++i) {
    dataset.labels[i] = static_cast<std::uint8_t>(i % num_textures);
  }
  if (request.contents == Contents::labels_only) return dataset;

  dataset.draw_image = [purpose, view](std::int64_t index, std::uint8_t* pixels) {
    RandomStream random(synthetic_seed, purpose, index);
    const Scene scene = draw_scene(static_cast<int>(index % num_textures), random);
    Picture(scene, view).render(random, pixels);
  };
  return dataset;
}

}  // namespace revode
