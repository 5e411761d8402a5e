// What a digest (digest.hpp) is the sum of, modulo 2^64: a term for each word of 8 bytes and one
// for the length. Sums take their terms in any order, so many lanes, threads and processors may
// share the work and find the same bits.
#pragma once

#include <cstdint>

#include "revode/core/on_device.hpp"

namespace revode {

/// The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014): a bijection, in which every bit moves about half of the bits. With a
/// single product the highest bits would move few, and two of them could cancel out in a sum.
REVODE_ON_DEVICE constexpr std::uint64_t mix_bits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// For a given place a bijection of the word. Place 0 is that of the length in bytes, the words
/// begin at 1; the last one is filled up with zeros.
REVODE_ON_DEVICE constexpr std::uint64_t digest_term(std::uint64_t word, std::uint64_t place) {
  return mix_bits(word + place * 0x9e3779b97f4a7c15u);
}

}  // namespace revode
