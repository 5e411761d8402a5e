// The lines of a coupling, as epilogues of convolutions and as passes over whole tensors. Compiled
// once an instruction set.
//
//   target <- (gamma * target + beta * other) + round(s * F(other))
//
// Channels beyond the real ones go through all of it as zeros and stay zero.
#if defined(REVODE_CPU_COUPLING_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef REVODE_CPU_COUPLING_INL_HPP_
#undef REVODE_CPU_COUPLING_INL_HPP_
#else
#define REVODE_CPU_COUPLING_INL_HPP_
#endif

#include <cmath>

#include "revode/backend/backend.hpp"

#include "backend/cpu/direct_convolution-inl.hpp"
#include "backend/cpu/segment_kernels.hpp"

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

/// u < 0 ? 0 : u, so that a NaN stays one and the loss shows it.
HWY_INLINE FloatVector relu(FloatVector u) {
  return hn::IfThenZeroElse(hn::Lt(u, hn::Zero(FloatTag())), u);
}

/// What a coupling leaves of its target, as far as the compiler can make use of it.
enum class Keep {
  target,      ///< gamma = 1, beta = 0: all of it
  combination  ///< gamma * target + beta * other
};
inline Keep keep_of(const SegmentPlan& plan) {
  return plan.gamma == 1 && plan.beta == 0 ? Keep::target : Keep::combination;
}

/// Constants and operands of one coupling's line.
///
/// On the grid the increment is formed in units of it: s * 2^grid_bits * F, rounded to an integer,
/// ties to even. Powers of two scale exactly, and an integer times 2^-grid_bits is exact inside a
/// multiply-add: the bits are those of the line as it is written.
struct Line {
  Line(const SegmentPlan& plan, int coupling, float* const* state, float* hidden_in)
      : gamma(hn::Set(FloatTag(), plan.gamma)),
        beta(hn::Set(FloatTag(), plan.beta)),
        scale(hn::Set(FloatTag(), plan.scale[plan.target(coupling)])),
        scale_in_units(hn::Mul(scale, hn::Set(FloatTag(), std::ldexp(1.0f, plan.grid_bits)))),
        unit(hn::Set(FloatTag(), std::ldexp(1.0f, -plan.grid_bits))),
        bias(plan.bias_of(coupling)),
        target(state[plan.target(coupling)]),
        other(state[1 - plan.target(coupling)]),
        hidden(hidden_in) {}

  FloatVector gamma, beta, scale;
  FloatVector scale_in_units;  ///< s * 2^grid_bits
  FloatVector unit;            ///< 2^-grid_bits
  const float* bias;
  float* target;
  const float* other;
  float* hidden;
};

/// What the way back through F reads and adds to, beside the line's operands.
struct Linearisation {
  float* g;              ///< s * adjoint of the target; is used up
  float* grad_hidden;    ///< scratch: gz
  float* adjoint_other;  ///< += F'(other)^T g
  float* grad_kernel;    ///< packed, +=
  float* grad_bias;      ///< +=
};

/// hidden <- sigma(sum + b)
struct StoreHidden {
  HWY_INLINE void operator()(FloatVector sum, int channel, std::size_t offset) const {
    const FloatTag d;
    hn::Store(relu(hn::Add(sum, hn::Load(d, bias + channel))), d, hidden + offset);
  }

  const float* bias;
  float* hidden;
};

/// F from a sum: the sum itself, or (antisymmetric) sigma(sum + b), which is kept as `hidden` too.
template <Force force>
HWY_INLINE FloatVector finish_force(const Line& line, FloatVector sum, int channel,
                                    std::size_t offset) {
  if constexpr (force == Force::symmetric) return sum;
  const FloatTag d;
  const FloatVector value = relu(hn::Add(sum, hn::Load(d, line.bias + channel)));
  hn::Store(value, d, line.hidden + offset);
  return value;
}

/// target <- (gamma * target + beta * other) + round(s * F), noting the largest magnitude and
/// counting what leaves the exact range.
template <Force force, bool on_grid, Keep keep>
struct Advance {
  Advance(const SegmentPlan& plan, const Line& line_in)
      : line(line_in), limit(hn::Set(FloatTag(), std::ldexp(1.0f, 24 - plan.grid_bits))) {}

  HWY_INLINE void operator()(FloatVector sum, int channel, std::size_t offset) {
    const FloatTag d;
    const auto zero = hn::Zero(d);
    const FloatVector value = finish_force<force>(line, sum, channel, offset);
    FloatVector base = hn::Load(d, line.target + offset);
    if constexpr (keep == Keep::combination) {
      base =
          hn::Add(hn::Mul(line.gamma, base), hn::Mul(line.beta, hn::Load(d, line.other + offset)));
    }
    if constexpr (!on_grid) {
      const FloatVector result = hn::Add(base, hn::Mul(line.scale, value));
      hn::Store(result, d, line.target + offset);
      largest = hn::Max(largest, hn::Abs(result));
      return;
    }
    const FloatVector increment = hn::Mul(line.scale_in_units, value);
    const FloatVector rounded = hn::Round(increment);
    FloatVector result = hn::MulAdd(rounded, line.unit, base);
    if constexpr (keep == Keep::combination) result = hn::Add(result, zero);  // -0 + 0 = +0
    hn::Store(result, d, line.target + offset);

    const FloatVector magnitude = hn::Abs(result);
    largest = hn::Max(largest, magnitude);
    out_of_range += hn::CountTrue(d, hn::Ge(magnitude, limit));
    if constexpr (keep == Keep::combination)
      out_of_range += hn::CountTrue(d, hn::Ge(hn::Abs(base), limit));
    rounded_to_zero += hn::CountTrue(d, hn::And(hn::Ne(increment, zero), hn::Eq(rounded, zero)));
  }

  StateNotes notes() const {
    return {{static_cast<std::int64_t>(out_of_range), static_cast<std::int64_t>(rounded_to_zero)},
            hn::GetLane(hn::MaxOfLanes(FloatTag(), largest))};
  }

  Line line;
  FloatVector limit;
  FloatVector largest = hn::Zero(FloatTag());
  std::size_t out_of_range = 0;
  std::size_t rounded_to_zero = 0;
};

/// Solves the line for the old target, gamma being its own inverse:
///   target <- gamma * ((target - round(s * F)) - beta * other)
/// No state on the grid is -0 (its last summand, the increment, never is): nor is one restored.
template <Force force, bool on_grid, Keep keep>
struct Invert {
  HWY_INLINE void operator()(FloatVector sum, int channel, std::size_t offset) const {
    const FloatTag d;
    const FloatVector value = finish_force<force>(line, sum, channel, offset);
    FloatVector result = hn::Load(d, line.target + offset);
    if constexpr (on_grid) {
      const FloatVector rounded = hn::Round(hn::Mul(line.scale_in_units, value));
      result = hn::NegMulAdd(rounded, line.unit, result);
    } else {
      result = hn::Sub(result, hn::Mul(line.scale, value));
    }
    if constexpr (keep == Keep::combination) {
      const FloatVector share = hn::Mul(line.beta, hn::Load(d, line.other + offset));
      result = hn::Mul(line.gamma, hn::Sub(result, share));
    }
    if constexpr (on_grid) result = hn::Add(result, hn::Zero(d));  // -0 + 0 = +0
    hn::Store(result, d, line.target + offset);
  }

  Line line;
};

/// out <- sum where hidden > 0, else 0
struct StoreMasked {
  HWY_INLINE void operator()(FloatVector sum, int, std::size_t offset) const {
    const FloatTag d;
    const auto active = hn::Gt(hn::Load(d, hidden + offset), hn::Zero(d));
    hn::Store(hn::IfThenElseZero(active, sum), d, out + offset);
  }

  const float* hidden;
  float* out;
};

/// total <- total + sum
struct AddTo {
  HWY_INLINE void operator()(FloatVector sum, int, std::size_t offset) const {
    const FloatTag d;
    hn::Store(hn::Add(hn::Load(d, total + offset), sum), d, total + offset);
  }

  float* total;
};

/// total <- total - sum
struct SubtractFrom {
  HWY_INLINE void operator()(FloatVector sum, int, std::size_t offset) const {
    const FloatTag d;
    hn::Store(hn::Sub(hn::Load(d, total + offset), sum), d, total + offset);
  }

  float* total;
};

/// The adjoint of the line but for F, over whole tensors:
///   g <- s * adjoint_target;  adjoint_other += beta * adjoint_target;  adjoint_target *= gamma
inline void retreat_line(const SegmentPlan& plan, const Line& line, std::size_t size,
                         float* HWY_RESTRICT adjoint_target, float* HWY_RESTRICT adjoint_other,
                         float* HWY_RESTRICT g) {
  const FloatTag d;
  if (keep_of(plan) == Keep::target) {  // only g is left to do
    for (std::size_t k = 0; k < size; k += lanes)
      hn::Store(hn::Mul(line.scale, hn::Load(d, adjoint_target + k)), d, g + k);
    return;
  }
  for (std::size_t k = 0; k < size; k += lanes) {
    const FloatVector adjoint = hn::Load(d, adjoint_target + k);
    hn::Store(hn::Mul(line.scale, adjoint), d, g + k);
    hn::Store(hn::Add(hn::Load(d, adjoint_other + k), hn::Mul(line.beta, adjoint)), d,
              adjoint_other + k);
    hn::Store(hn::Mul(line.gamma, adjoint), d, adjoint_target + k);
  }
}

/// values <- values where hidden > 0, else 0, over whole tensors.
inline void mask(std::size_t size, const float* HWY_RESTRICT hidden, float* HWY_RESTRICT values) {
  const FloatTag d;
  for (std::size_t k = 0; k < size; k += lanes) {
    const auto active = hn::Gt(hn::Load(d, hidden + k), hn::Zero(d));
    hn::Store(hn::IfThenElseZero(active, hn::Load(d, values + k)), d, values + k);
  }
}

/// grad_bias[o] += sum over images and pixels of g_o
inline void add_bias_gradient(const Planes& planes, int num_images, const float* g,
                              float* grad_bias) {
  const FloatTag d;
  for (int image = 0; image < num_images; ++image) {
    for (int channel = 0; channel < planes.num_blocks() * block_channels; channel += lanes) {
      FloatVector sum = hn::Load(d, grad_bias + channel);
      for (int y = 0; y < planes.height; ++y) {
        const float* row = g + image * planes.image_size() +
                           planes.pixel(channel / block_channels, y, 0) + channel % block_channels;
        for (int x = 0; x < planes.width; ++x)
          sum = hn::Add(sum, hn::Load(d, row + x * block_channels));
      }
      hn::Store(sum, d, grad_bias + channel);
    }
  }
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once an instruction set
