// Counter-based random numbers: a value depends on (seed, purpose, index) and its place in that
// stream, never on the rank or thread that draws it. Philox4x32-10 of Salmon, Moraes, Dror, Shaw,
// "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once

#include <array>
#include <cstdint>

namespace revode {

/// What a stream is drawn for. Values are part of what a seed means: append, never renumber.
enum class Purpose : std::uint32_t {
  kernel = 1,           ///< index: global coupling, or 2^32 for the opening
  fully_connected = 2,  ///< index: 0
  shuffle = 3,          ///< index: epoch
  augmentation = 4,     ///< index: epoch * 2^32 + image in its split
  subset = 5,           ///< index: class
  synthetic_train = 6,  ///< index: image
  synthetic_test = 7,   ///< index: image
  check = 8,            ///< directions of the Taylor test; index: array
  reshuffle = 9,        ///< index: epoch * 2^32 + rewind, counted from 1
};

/// The ten-round Philox bijection of a 128-bit counter under a 64-bit key.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key);

/// The stream of one (seed, purpose, index): at most 2^34 draws.
class RandomStream {
 public:
  RandomStream(std::uint64_t seed, Purpose purpose, std::uint64_t index);

  std::uint32_t bits();
  /// Uniform in [0, 1), a multiple of 2^-32.
  double uniform();
  /// Uniform in [low, high).
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Uniform over 0 .. bound - 1, without bias (rejection); bound >= 1.
  std::uint32_t below(std::uint32_t bound);
  /// Standard normal (Box-Muller).
  double normal();
  /// Standard normal restricted to [-2, 2] (rejection).
  double truncated_normal();

 private:
  std::array<std::uint32_t, 4> counter_;
  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 4> block_{};
  int used_ = 4;
  double spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace revode
