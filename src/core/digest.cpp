#include "revode/core/digest.hpp"

#include <cstring>

#include "revode/core/digest_terms.hpp"

namespace revode {
namespace {

/// The terms of the words that lie in the array as a whole.
[[gnu::always_inline]] inline std::uint64_t add_terms(const std::byte* bytes,
                                                      std::size_t num_words) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < num_words; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + i * sizeof(word), sizeof(word));
    sum += digest_term(word, i + 1);
  }
  return sum;
}

// A function that says nothing else has the vectors of the oldest processor.
#ifdef __x86_64__
[[gnu::target("avx512dq")]] std::uint64_t add_terms_avx512(const std::byte* bytes,
                                                           std::size_t num_words) {
  return add_terms(bytes, num_words);
}
[[gnu::target("avx2")]] std::uint64_t add_terms_avx2(const std::byte* bytes,
                                                     std::size_t num_words) {
  return add_terms(bytes, num_words);
}

std::uint64_t add_terms_fast(const std::byte* bytes, std::size_t num_words) {
  if (__builtin_cpu_supports("avx512dq")) return add_terms_avx512(bytes, num_words);
  if (__builtin_cpu_supports("avx2")) return add_terms_avx2(bytes, num_words);
  return add_terms(bytes, num_words);
}
#else
std::uint64_t add_terms_fast(const std::byte* bytes, std::size_t num_words) {
  return add_terms(bytes, num_words);
}
#endif

}  // namespace

std::uint64_t digest_of(std::span<const std::byte> bytes) {
  const std::size_t num_words = bytes.size() / sizeof(std::uint64_t);
  const std::span<const std::byte> rest = bytes.subspan(num_words * sizeof(std::uint64_t));
  std::uint64_t sum = digest_term(bytes.size(), 0) + add_terms_fast(bytes.data(), num_words);
  if (rest.empty()) return sum;
  std::uint64_t last = 0;
  std::memcpy(&last, rest.data(), rest.size());
  return sum + digest_term(last, num_words + 1);
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
