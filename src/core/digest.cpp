#include "revode/core/digest.hpp"

#include <array>
#include <bit>
#include <cstring>

namespace revode {
namespace {

/// Words that follow each other go to other lanes, so that their multiplications overlap.
constexpr std::size_t num_lanes = 8;

/// The round of xxHash64 (github.com/Cyan4973/xxHash), with its constants, which are odd: for a
/// given word a bijection of the digest, for a given digest one of the word, so digests that differ
/// once stay apart. Two factors, so that no bit of a word undoes what one of an earlier word did.
std::uint64_t add(std::uint64_t digest, std::uint64_t word) {
  constexpr std::uint64_t prime_1 = 11400714785074694791u, prime_2 = 14029467366897019727u;
  return std::rotl(digest + word * prime_2, 31) * prime_1;
}

}  // namespace

std::uint64_t digest_of(std::span<const std::byte> bytes) {
  std::array<std::uint64_t, num_lanes> lanes{1, 2, 3, 4, 5, 6, 7, 8}, words;
  const std::byte* next = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= sizeof(words); left -= sizeof(words), next += sizeof(words)) {
    std::memcpy(words.data(), next, sizeof(words));
    for (std::size_t i = 0; i < num_lanes; ++i) lanes[i] = add(lanes[i], words[i]);
  }
  if (left > 0) {
    words = {};
    std::memcpy(words.data(), next, left);
    for (std::size_t i = 0; i < num_lanes; ++i) lanes[i] = add(lanes[i], words[i]);
  }
  std::uint64_t digest = bytes.size();
  for (const std::uint64_t lane : lanes) digest = add(digest, lane);
  return digest;
}

void seal(std::span<float> message) {
  const std::uint64_t digest =
      digest_of(std::span<const float>(message.first(message.size() - digest_floats)));
  std::memcpy(message.last(digest_floats).data(), &digest, sizeof(digest));
}

bool is_sealed(std::span<const float> message) {
  std::uint64_t digest = 0;
  std::memcpy(&digest, message.last(digest_floats).data(), sizeof(digest));
  return digest == digest_of(message.first(message.size() - digest_floats));
}

std::uint64_t wrapping_sum(std::span<const std::int64_t> values) {
  std::uint64_t sum = 0;
  for (const std::int64_t value : values) sum += static_cast<std::uint64_t>(value);
  return sum;
}

}  // namespace revode
