// Digests of the bits of arrays: what was written once and must not change is held against them
// later. They find faults of memory and processor, not forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace revode {

/// 64 bits. Any change within one word of 8 bytes changes it for certain, and so do zeros that are
/// added at the end; other changes do with probability 1 - 2^-64. About as fast as memory is read.
std::uint64_t digest_of(std::span<const std::byte> bytes);

template <typename T>
std::uint64_t digest_of(std::span<const T> values) {
  return digest_of(std::as_bytes(values));
}

/// A message of floats ends in the digest of those before it, as bits of so many floats.
inline constexpr std::size_t digest_floats = sizeof(std::uint64_t) / sizeof(float);

/// Writes the digest of all floats but the last ones there.
void seal(std::span<float> message);
/// Whether a message is what it was when it was sealed.
bool is_sealed(std::span<const float> message);

/// Sum of the values modulo 2^64, which any order, grouping and reduction of sums keeps.
std::uint64_t wrapping_sum(std::span<const std::int64_t> values);

/// An array that a check may look at later.
struct GuardedArray {
  std::string_view what;  ///< of static storage: "weights"
  std::span<std::byte> bytes;
};
/// Called by the main thread as soon as what an array is held against has been noted: tests flip
/// bits there. Null: nobody is called.
inline void (*on_guarded_array)(const GuardedArray&) = nullptr;

template <typename T>
void tell_guarded(std::string_view what, std::span<T> values) {
  if (on_guarded_array != nullptr) on_guarded_array({what, std::as_writable_bytes(values)});
}

}  // namespace revode
