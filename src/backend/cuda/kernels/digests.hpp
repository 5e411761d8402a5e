// Digests of arrays; see CallQueue::digest().
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "revode/core/digest_terms.hpp"

#include "backend/cuda/kernel.hpp"

namespace revode::cuda {

/// digests [num_arrays] += those of the arrays. A block takes a part of one array: every
/// num_parts-th run of num_threads words.
struct AddDigests {
  static constexpr std::string_view name = "add_digests";
  static constexpr int num_threads = summing_threads, num_phases = 9, most_arrays = 16;
  static_assert(num_threads == 1 << (num_phases - 1));
  struct Shared {
    std::uint64_t of_thread[num_threads];
  };
  struct Array {
    const std::byte* bytes = nullptr;
    std::int64_t size = 0;
    bool operator==(const Array&) const = default;
  };
  int num_arrays = 0;
  int num_parts = 1;
  Array arrays[most_arrays];
  std::uint64_t* digests = nullptr;

  AddDigests(std::span<const std::span<const std::byte>> of, std::uint64_t* to)
      : num_arrays(static_cast<int>(of.size())), digests(to) {
    std::size_t largest = 0;
    for (int k = 0; k < num_arrays; ++k) {
      arrays[k] = {of[k].data(), static_cast<std::int64_t>(of[k].size())};
      largest = std::max(largest, of[k].size());
    }
    // As long as every thread has a few words; more blocks than these a device has no room for.
    constexpr std::size_t bytes_of_block = std::size_t{4} * num_threads * sizeof(std::uint64_t);
    num_parts = static_cast<int>(std::clamp<std::size_t>(largest / bytes_of_block, 1, 128));
  }

  REVODE_ON_DEVICE std::int64_t num_blocks() const {
    return std::int64_t{1} * num_arrays * num_parts;
  }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t block, int thread,
                                   Shared& shared) const {
    const auto k = static_cast<int>(block / num_parts), part = static_cast<int>(block % num_parts);
    if (phase == 0) {
      const std::int64_t num_words = (arrays[k].size + 7) / 8;
      std::uint64_t sum = 0;
      for (std::int64_t i = std::int64_t{part} * num_threads + thread; i < num_words;
           i += std::int64_t{num_parts} * num_threads)
        sum += digest_term(word(arrays[k], i), i + 1);
      if (part == 0 && thread == 0) sum += digest_term(arrays[k].size, 0);
      shared.of_thread[thread] = sum;
      return;
    }
    // Halves are added to halves.
    const int half = num_threads >> phase;
    if (thread < half) shared.of_thread[thread] += shared.of_thread[thread + half];
    if (phase == num_phases - 1 && thread == 0) add_atomically(digests + k, shared.of_thread[0]);
  }
  bool operator==(const AddDigests&) const = default;
  Accesses accesses() const {
    Accesses all;
    for (int k = 0; k < num_arrays; ++k)
      all = std::move(all).reads(arrays[k].bytes, arrays[k].size);
    return std::move(all).adds(digests, num_arrays);
  }

 private:
  /// In two loads, since arrays begin at multiples of 4 bytes; the last one filled up with zeros.
  REVODE_ON_DEVICE static std::uint64_t word(const Array& array, std::int64_t i) {
    const std::byte* const begin = array.bytes + 8 * i;
    if (8 * i + 8 <= array.size) {
      std::uint32_t halves[2];
      memcpy(&halves[0], __builtin_assume_aligned(begin, 4), 4);
      memcpy(&halves[1], __builtin_assume_aligned(begin + 4, 4), 4);
      return halves[0] | std::uint64_t{halves[1]} << 32;
    }
    std::uint64_t last = 0;
    for (std::int64_t b = 0; b < array.size - 8 * i; ++b)
      last |= static_cast<std::uint64_t>(begin[b]) << (8 * b);
    return last;
  }
};

}  // namespace revode::cuda
