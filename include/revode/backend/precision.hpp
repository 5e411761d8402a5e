// The format of numbers that a segment multiplies. Whatever it is, products are summed in single
// precision, and states, adjoints, increments and gradients stay there: reversal is as exact.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace revode {

enum class Precision {
  fp32,
  tf32,  ///< 8 bits of exponent, 10 of mantissa
  bf16,  ///< 8 bits of exponent, 7 of mantissa
};

/// Explicit bits of the mantissa.
constexpr int mantissa_bits(Precision precision) {
  return precision == Precision::bf16 ? 7 : precision == Precision::tf32 ? 10 : 23;
}

/// Names that --precision takes, in the order of --help.
std::vector<std::string> precision_names();
std::string_view to_string(Precision precision);
/// Throws an input error for an unknown name.
Precision precision_of(std::string_view name);

}  // namespace revode
