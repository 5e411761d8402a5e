// What tensor cores multiply: operands rounded to TF32 or bf16, sums in single precision. On the
// host the same numbers are multiplied one by one.
#pragma once

#include <cstdint>
#include <cstring>

#include "revode/backend/precision.hpp"

#include "backend/cuda/kernel.hpp"

namespace revode::cuda {

inline constexpr int lanes_a_warp = 32;

template <Precision precision>
inline constexpr int bits_dropped = mantissa_bits(Precision::fp32) - mantissa_bits(precision);

/// Ties to even; NaN stays NaN.
template <Precision precision>
REVODE_ON_DEVICE inline float rounded_operand(float x) {
  return round_mantissa(x, bits_dropped<precision>);
}

/// A word that tensor cores take: a number, or two of bf16, the first in the lower half.
REVODE_ON_DEVICE inline std::uint32_t to_tf32(float x) {
  std::uint32_t word;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(word) : "f"(x));
#else
  const float rounded = rounded_operand<Precision::tf32>(x);
  memcpy(&word, &rounded, sizeof word);
#endif
  return word;
}
REVODE_ON_DEVICE inline std::uint32_t to_bf16_pair(float first, float second) {
  std::uint32_t word;
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
#else
  // bf16 is the upper half of a float.
  const float rounded[2] = {rounded_operand<Precision::bf16>(first),
                            rounded_operand<Precision::bf16>(second)};
  std::uint32_t upper[2];
  memcpy(upper, rounded, sizeof upper);
  word = upper[1] | upper[0] >> 16;
#endif
  return word;
}

// A product of matrices a [16, k] b [k, 8] is a warp's: its lanes hold a and b together, and each
// four of the sums (PTX ISA, "Matrix fragments for mma.m16n8k8" and "mma.m16n8k16"). With row
// r = lane / 4 and member m = lane % 4:
//
//   sums     (r, 2m), (r, 2m + 1), (r + 8, 2m), (r + 8, 2m + 1)
//   tf32, k = 8:   words of a  (r, m), (r + 8, m), (r, m + 4), (r + 8, m + 4)
//                  words of b  (m, r), (m + 4, r)
//   bf16, k = 16:  words of a  (r, 2m), (r + 8, 2m), (r, 2m + 8), (r + 8, 2m + 8),
//                              each with the one at its right
//                  words of b  (2m, r), (2m + 8, r), each with the one below
//
// On a device a lane has its own words. On the host, where lanes run one after the other, it makes
// those of the lanes whose words its sums take.

#ifdef __CUDA_ARCH__
#define REVODE_LANES_ON_HOST(number) 1
#else
#define REVODE_LANES_ON_HOST(number) number
#endif

/// Of the four lanes that hold a's rows r and r + 8.
template <typename Words>
struct RowWords {
  Words of[REVODE_LANES_ON_HOST(4)];
};
/// Of the lanes that hold b's columns 2m and 2m + 1, four each.
template <typename Words>
struct ColumnWords {
  Words of[REVODE_LANES_ON_HOST(8)];
};

/// make(lane) gives the words of a lane.
template <typename Make>
REVODE_ON_DEVICE inline auto row_words(int lane, Make&& make) {
#ifdef __CUDA_ARCH__
  return RowWords<decltype(make(lane))>{{make(lane)}};
#else
  const int first = lane / 4 * 4;
  return RowWords<decltype(make(lane))>{
      {make(first), make(first + 1), make(first + 2), make(first + 3)}};
#endif
}
template <typename Make>
REVODE_ON_DEVICE inline auto column_words(int lane, Make&& make) {
#ifdef __CUDA_ARCH__
  return ColumnWords<decltype(make(lane))>{{make(lane)}};
#else
  const int first = lane % 4 * 8;
  return ColumnWords<decltype(make(lane))>{{make(first), make(first + 1), make(first + 2),
                                            make(first + 3), make(first + 4), make(first + 5),
                                            make(first + 6), make(first + 7)}};
#endif
}

/// Number `part` of those in a word.
template <Precision precision>
inline float number_in(std::uint32_t word, int part) {
  if (precision == Precision::bf16) word = part == 0 ? word << 16 : word & 0xffff0000u;
  float number;
  std::memcpy(&number, &word, sizeof number);
  return number;
}

/// sums += a b, of which words_of_a and words_of_b find a lane's four and two words. All lanes of a
/// warp call it together.
template <Precision precision, typename A, typename B, typename WordsOfA, typename WordsOfB>
REVODE_ON_DEVICE inline void multiply(const RowWords<A>& a, const ColumnWords<B>& b,
                                      WordsOfA&& words_of_a, WordsOfB&& words_of_b,
                                      float (&sums)[4]) {
#ifdef __CUDA_ARCH__
  const std::uint32_t* const of_a = words_of_a(a.of[0]);
  const std::uint32_t* const of_b = words_of_b(b.of[0]);
  if constexpr (precision == Precision::bf16)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(of_a[0]), "r"(of_a[1]), "r"(of_a[2]), "r"(of_a[3]), "r"(of_b[0]), "r"(of_b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(of_a[0]), "r"(of_a[1]), "r"(of_a[2]), "r"(of_a[3]), "r"(of_b[0]), "r"(of_b[1]));
#else
  constexpr int numbers_a_word = precision == Precision::bf16 ? 2 : 1;
  for (int upper = 0; upper < 2; ++upper)
    for (int member = 0; member < 4; ++member)
      for (int part = 0; part < numbers_a_word; ++part)
        for (int row = 0; row < 2; ++row) {
          const float left = number_in<precision>(words_of_a(a.of[member])[2 * upper + row], part);
          for (int column = 0; column < 2; ++column)
            sums[2 * row + column] +=
                left * number_in<precision>(words_of_b(b.of[4 * column + member])[upper], part);
        }
#endif
}

}  // namespace revode::cuda
