// What the library's products take: numbers rounded to a precision, stored as floats or as bf16,
// the upper halves of floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "revode/backend/precision.hpp"

#include "backend/cuda/kernel.hpp"
#include "backend/cuda/kernels/tensor_core.hpp"

namespace revode::cuda {

/// Of a number, by how it is stored.
constexpr std::size_t operand_bytes(Precision stored_as) {
  return stored_as == Precision::bf16 ? sizeof(std::uint16_t) : sizeof(float);
}

struct OperandFormat {
  Precision rounded_to = Precision::fp32;
  Precision stored_as = Precision::fp32;  ///< what may multiply them; bf16 if that is rounded to
  bool operator==(const OperandFormat&) const = default;
};

/// cuDNN multiplies bf16 where pixels begin at multiples of 16 bytes. Numbers of bf16 are numbers
/// of TF32 as well, and their products exact in single precision.
constexpr OperandFormat operand_format(Precision precision, int channels) {
  const bool is_bf16 = precision == Precision::bf16;
  return {precision, is_bf16 && channels % 8 != 0 ? Precision::tf32 : precision};
}

/// Those that a kernel writes, beside its floats; null where none are wanted.
struct OperandArray {
  OperandFormat format;
  void* values = nullptr;

  REVODE_ON_DEVICE void set(std::int64_t i, float value) const {
    if (values == nullptr) return;
    float rounded = value;
    if (format.rounded_to == Precision::tf32) rounded = rounded_operand<Precision::tf32>(value);
    if (format.rounded_to == Precision::bf16) rounded = rounded_operand<Precision::bf16>(value);
    if (format.stored_as == Precision::bf16) {
      std::uint32_t bits;
      memcpy(&bits, &rounded, sizeof bits);
      static_cast<std::uint16_t*>(values)[i] = static_cast<std::uint16_t>(bits >> 16);
    } else {
      static_cast<float*>(values)[i] = rounded;
    }
  }
  Accesses accesses(std::int64_t num_values) const {
    return Accesses().writes(static_cast<std::byte*>(values),
                             num_values * operand_bytes(format.stored_as));
  }
  bool operator==(const OperandArray&) const = default;
};

}  // namespace revode::cuda
