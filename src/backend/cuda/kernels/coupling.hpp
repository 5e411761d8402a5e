// What a coupling does beside its convolutions; see backend/segment.hpp for the equations. Arrays
// are [batch, height, width, channels] of one slot.
#pragma once

#include <cstdint>
#include <string_view>

#include "revode/backend/segment.hpp"

#include "backend/cuda/kernel.hpp"
#include "backend/cuda/kernels/operands.hpp"

namespace revode::cuda {

/// One line of the scheme: target <- gamma * target + beta * other + round(scale * F).
struct CouplingLine {
  float gamma = 1;
  float beta = 0;
  float scale = 0;
  float unit = 0;   ///< 2^grid_bits, 0 without a grid
  float limit = 0;  ///< magnitudes from here on are out of range
  bool operator==(const CouplingLine&) const = default;
};

/// What a line gives, and what it counts.
struct LineStep {
  float value;
  int num_out_of_range;
  int num_rounded_to_zero;
};

/// (gamma target + beta other) + round(scale F)
REVODE_ON_DEVICE inline LineStep advance_line(const CouplingLine& line, float target, float other,
                                              float force) {
  const float base = line.gamma * target + line.beta * other;
  const float increment = line.scale * force;
  const float rounded = round_to_grid(increment, line.unit);
  const float value = base + rounded;
  // No branches: the whole-segment kernels take many values at once.
  const bool has_grid = line.unit != 0, has_sum = line.beta != 0;
  return {value,
          (has_grid & (fabsf(value) >= line.limit) ? 1 : 0) +
              (has_grid & has_sum & (fabsf(base) >= line.limit) ? 1 : 0),
          has_grid & (increment != 0) & (rounded == 0) ? 1 : 0};
}

/// Its inverse, gamma ((target - round(scale F)) - beta other); gamma = +-1.
REVODE_ON_DEVICE inline float retreat_line(const CouplingLine& line, float target, float other,
                                           float force) {
  const float rounded = round_to_grid(line.scale * force, line.unit);
  return line.gamma * ((target - rounded) - line.beta * other) + 0.0f;
}

/// values <- relu(values + bias of the channel), and what products take of it
struct BiasRelu {
  static constexpr std::string_view name = "bias_relu";
  std::int64_t num_values = 0;
  int channels = 0;
  const float* bias = nullptr;
  float* values = nullptr;
  OperandArray operand;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const float value = relu(values[i] + bias[i % channels]);
    values[i] = value;
    operand.set(i, value);
  }
  bool operator==(const BiasRelu&) const = default;
  Accesses accesses() const {
    return operand.accesses(num_values).reads(bias, channels).writes(values, num_values);
  }
};

/// target <- (gamma target + beta other) + round(scale F); *notes += this call's.
struct AdvanceLine {
  static constexpr std::string_view name = "advance_line";
  CouplingLine line;
  std::int64_t num_values = 0;
  const float* force = nullptr;
  const float* other = nullptr;
  float* target = nullptr;
  StateNotes* notes = nullptr;  ///< may be null

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const LineStep step = advance_line(line, target[i], other[i], force[i]);
    target[i] = step.value;
    if (notes == nullptr) return;
    raise_atomically(&notes->largest, fabsf(step.value));
    if (step.num_out_of_range > 0) add_atomically(&notes->out_of_range, step.num_out_of_range);
    if (step.num_rounded_to_zero > 0) add_atomically(&notes->rounded_to_zero, 1);
  }
  bool operator==(const AdvanceLine&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(force, num_values)
        .reads(other, num_values)
        .writes(target, num_values)
        .adds(notes, 1);
  }
};

/// target <- what it was in front of AdvanceLine.
struct RetreatLine {
  static constexpr std::string_view name = "retreat_line";
  CouplingLine line;
  std::int64_t num_values = 0;
  const float* force = nullptr;
  const float* other = nullptr;
  float* target = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    target[i] = retreat_line(line, target[i], other[i], force[i]);
  }
  bool operator==(const RetreatLine&) const = default;
  Accesses accesses() const {
    return Accesses().reads(force, num_values).reads(other, num_values).writes(target, num_values);
  }
};

/// The adjoint of the line but for F: grad_force <- scale adjoint_target; adjoint_other += beta
/// adjoint_target; adjoint_target <- gamma adjoint_target. And what products take of grad_force.
struct AdjointLine {
  static constexpr std::string_view name = "adjoint_line";
  CouplingLine line;
  std::int64_t num_values = 0;
  float* adjoint_target = nullptr;
  float* adjoint_other = nullptr;
  float* grad_force = nullptr;
  OperandArray operand;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const float a = adjoint_target[i];
    grad_force[i] = line.scale * a;
    operand.set(i, line.scale * a);
    adjoint_other[i] += line.beta * a;
    adjoint_target[i] = line.gamma * a;
  }
  bool operator==(const AdjointLine&) const = default;
  Accesses accesses() const {
    return operand.accesses(num_values)
        .writes(adjoint_target, num_values)
        .writes(adjoint_other, num_values)
        .writes(grad_force, num_values);
  }
};

/// values <- 0 where hidden is not positive: sigma'(0) = 0. And what products take of them.
struct Mask {
  static constexpr std::string_view name = "mask";
  std::int64_t num_values = 0;
  const float* hidden = nullptr;
  float* values = nullptr;
  OperandArray operand;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const float value = hidden[i] > 0 ? values[i] : 0.0f;
    values[i] = value;
    operand.set(i, value);
  }
  bool operator==(const Mask&) const = default;
  Accesses accesses() const {
    return operand.accesses(num_values).reads(hidden, num_values).writes(values, num_values);
  }
};

/// What products take of values.
struct RoundOperand {
  static constexpr std::string_view name = "round_operand";
  std::int64_t num_values = 0;
  const float* values = nullptr;
  OperandArray operand;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const { operand.set(i, values[i]); }
  bool operator==(const RoundOperand&) const = default;
  Accesses accesses() const { return operand.accesses(num_values).reads(values, num_values); }
};

/// to += factor * values
struct AddScaled {
  static constexpr std::string_view name = "add_scaled";
  std::int64_t num_values = 0;
  float factor = 1;
  const float* values = nullptr;
  float* to = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return num_values; }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const { to[i] += factor * values[i]; }
  bool operator==(const AddScaled&) const = default;
  Accesses accesses() const { return Accesses().reads(values, num_values).writes(to, num_values); }
};

/// *to += *from, where there is a `to`; *from becomes 0.
struct TakeStateNotes {
  static constexpr std::string_view name = "take_state_notes";
  StateNotes* from = nullptr;
  StateNotes* to = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return 1; }
  REVODE_ON_DEVICE void operator()(std::int64_t) const {
    if (to != nullptr) {
      to->out_of_range += from->out_of_range;
      to->rounded_to_zero += from->rounded_to_zero;
      if (to->largest < from->largest) to->largest = from->largest;
    }
    from->out_of_range = 0;
    from->rounded_to_zero = 0;
    from->largest = 0;
  }
  bool operator==(const TakeStateNotes&) const = default;
  Accesses accesses() const { return Accesses().writes(from, 1).writes(to, 1); }
};

/// Where *from, 1 + a coupling or 0, is not 0: *highest becomes at least first + that coupling, and
/// *from 0.
struct TakeOverflow {
  static constexpr std::string_view name = "take_overflow";
  int* from = nullptr;
  int first = 1;
  int* highest = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return 1; }
  REVODE_ON_DEVICE void operator()(std::int64_t) const {
    if (*from == 0) return;
    raise_atomically(highest, first + *from - 1);
    *from = 0;
  }
  bool operator==(const TakeOverflow&) const = default;
  Accesses accesses() const { return Accesses().writes(from, 1).adds(highest, 1); }
};

/// For every coupling what products take: forward [c, 3, 3, c] <- K (antisymmetric: K - K^T), and
/// adjoint, where there is one, <- K^T, from kernel [num_couplings, c, c, 3, 3].
struct PackKernels {
  static constexpr std::string_view name = "pack_kernels";
  int num_couplings = 0;
  int channels = 0;
  std::int64_t stride = 0;  ///< from one packed kernel to the next
  const float* kernel = nullptr;
  OperandArray forward;
  OperandArray adjoint;  ///< null for the antisymmetric force

  REVODE_ON_DEVICE std::int64_t size() const {
    return std::int64_t{9} * num_couplings * channels * channels;
  }
  REVODE_ON_DEVICE void operator()(std::int64_t index) const {
    const std::int64_t i = index % channels, tap = index / channels % 9;
    const std::int64_t o = index / channels / 9 % channels;
    const std::int64_t coupling = index / channels / 9 / channels;
    const float* k = kernel + coupling * 9 * channels * channels;
    const float value = k[(o * channels + i) * 9 + tap];
    const float transposed = k[(i * channels + o) * 9 + 8 - tap];
    const std::int64_t to = coupling * stride + (o * 9 + tap) * channels + i;
    const bool is_symmetric = adjoint.values != nullptr;
    forward.set(to, is_symmetric ? value : value - transposed);
    adjoint.set(to, transposed);
  }
  bool operator==(const PackKernels&) const = default;
  Accesses accesses() const {
    const std::int64_t packed = num_couplings * stride;
    return forward.accesses(packed).and_also(adjoint.accesses(packed)).reads(kernel, size());
  }
};

/// sums [c, c, 3, 3] += the gradient of a kernel, one contribution an entry, from that of its
/// packed form [c, 3, 3, c], in two parts for the symmetric force; of A = K - K^T:
/// dK[o][i][k] = dA[o][i][k] - dA[i][o][-k].
struct AddKernelGradient {
  static constexpr std::string_view name = "add_kernel_gradient";
  Force force = Force::symmetric;
  int channels = 0;
  const float* gradient = nullptr;
  const float* second_part = nullptr;  ///< null for the antisymmetric force
  ExactSum* sums = nullptr;
  int* overflow = nullptr;  ///< becomes at least `overflow_code` where an entry does not fit
  int overflow_code = 0;

  REVODE_ON_DEVICE std::int64_t size() const { return std::int64_t{9} * channels * channels; }
  REVODE_ON_DEVICE void operator()(std::int64_t index) const {
    const std::int64_t tap = index % 9, i = index / 9 % channels, o = index / 9 / channels;
    float value = gradient[(o * 9 + tap) * channels + i];
    if (force == Force::antisymmetric)
      value -= gradient[(i * 9 + 8 - tap) * channels + o];
    else
      value += second_part[(o * 9 + tap) * channels + i];
    if (!add_contribution(value, sums + index)) raise_atomically(overflow, overflow_code);
  }
  bool operator==(const AddKernelGradient&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(gradient, size())
        .reads(second_part, size())
        .writes(sums, size())
        .adds(overflow, 1);
  }
};

/// sums [channels] += of every channel the sum of values [num_pixels, channels], one contribution
/// an entry. A block a channel.
struct AddBiasGradient {
  static constexpr std::string_view name = "add_bias_gradient";
  static constexpr int num_threads = summing_threads, num_phases = 2;
  using Shared = PartialSums;
  std::int64_t num_pixels = 0;
  int channels = 0;
  const float* values = nullptr;
  ExactSum* sums = nullptr;
  int* overflow = nullptr;
  int overflow_code = 0;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return channels; }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t channel, int thread,
                                   Shared& shared) const {
    if (phase == 0) {
      double sum = 0;
      for (std::int64_t p = thread; p < num_pixels; p += num_threads)
        sum += values[p * channels + channel];
      shared.of_thread[thread] = sum;
    } else if (thread == 0) {
      const auto sum = static_cast<float>(shared.total());
      if (!add_contribution(sum, sums + channel)) raise_atomically(overflow, overflow_code);
    }
  }
  bool operator==(const AddBiasGradient&) const = default;
  Accesses accesses() const {
    return Accesses().reads(values, num_pixels * channels).writes(sums, channels).adds(overflow, 1);
  }
};

}  // namespace revode::cuda
