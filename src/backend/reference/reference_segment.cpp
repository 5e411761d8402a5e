// Couplings by plain loops, image by image, straight from the formulas. Deliberately knows nothing
// of speed.
#include <algorithm>
#include <cmath>
#include <vector>

#include "revode/core/error.hpp"

#include "backend/reference/reference_backend.hpp"

namespace revode::reference {

template <typename Real>
Real round_to_grid(Real value, int grid_bits) {
  if (grid_bits == 0) return value;
  const Real unit = std::ldexp(Real{1}, grid_bits);
  return std::nearbyint(value * unit) / unit + Real{0};  // -0 + 0 = +0
}

template <typename Real>
Real round_operand(Real value, Precision precision) {
  if (precision == Precision::fp32 || value == 0 || !std::isfinite(value)) return value;
  // Numbers below 2^-126 have the spacing of those above.
  int exponent = 0;
  std::frexp(value, &exponent);  // |value| in [2^(exponent - 1), 2^exponent)
  const int last_bit = std::max(exponent - 1, -126) - mantissa_bits(precision);
  return std::ldexp(std::nearbyint(std::ldexp(value, -last_bit)), last_bit);
}

// Calls f(y_offset, x_offset, o, i, ky, kx) for every product of a 3x3 convolution inside the
// image.
template <typename Function>
static void for_each_product(int out, int in, int height, int width, Function&& f) {
  for (int o = 0; o < out; ++o)
    for (int i = 0; i < in; ++i)
      for (int ky = 0; ky < 3; ++ky)
        for (int kx = 0; kx < 3; ++kx)
          for (int y = std::max(0, 1 - ky); y < std::min(height, height + 1 - ky); ++y)
            for (int x = std::max(0, 1 - kx); x < std::min(width, width + 1 - kx); ++x)
              f((o * height + y) * width + x, (i * height + y + ky - 1) * width + x + kx - 1,
                ((o * in + i) * 3 + ky) * 3 + kx);
}

template <typename Real>
void convolve(const Real* kernel, int out, int in, int height, int width, const Real* x, Real* y) {
  for_each_product(out, in, height, width,
                   [=](int yo, int xo, int k) { y[yo] += kernel[k] * x[xo]; });
}

template <typename Real>
void convolve_adjoint(const Real* kernel, int out, int in, int height, int width, const Real* y,
                      Real* x) {
  for_each_product(out, in, height, width,
                   [=](int yo, int xo, int k) { x[xo] += kernel[k] * y[yo]; });
}

template <typename Real>
void convolve_kernel_gradient(int out, int in, int height, int width, const Real* x, const Real* y,
                              Real* grad) {
  for_each_product(out, in, height, width,
                   [=](int yo, int xo, int k) { grad[k] += y[yo] * x[xo]; });
}

namespace {

/// Of one micro-batch: for each image and coupling the old target, then the input x of F.
template <typename Real>
struct ReferenceRecording final : Recording {
  ReferenceRecording(const SegmentShape& shape, int batch)
      : num_couplings(shape.num_couplings),
        image_size(shape.image_size()),
        values(size(shape, batch), Memory::stash) {}

  static std::size_t size(const SegmentShape& shape, int batch) {
    return std::size_t{2} * batch * shape.num_couplings * shape.image_size();
  }

  std::size_t old_target(int image, int coupling) const {
    return (std::size_t{2} * image * num_couplings + 2 * coupling) * image_size;
  }
  std::size_t input(int image, int coupling) const {
    return old_target(image, coupling) + image_size;
  }

  int num_couplings;
  std::size_t image_size;
  Buffer<Real> values;
};

}  // namespace

/// F(x) and sigma(...), whose positive entries are the mask of the derivative. For the
/// antisymmetric force both are the same.
template <typename Real>
struct ReferenceSegment<Real>::Evaluation {
  std::vector<Real> hidden;
  std::vector<Real> force;
};

template <typename Real>
ReferenceSegment<Real>::ReferenceSegment(const SegmentShape& shape)
    : shape_(shape),
      kernel_(shape.num_couplings * shape.kernel_size(), Memory::packed_weights),
      bias_(std::size_t{1} * shape.num_couplings * shape.channels, Memory::packed_weights) {
  REVODE_CHECK(
      shape.channels >= 1 && shape.height >= 1 && shape.width >= 1 && shape.num_couplings >= 0,
      "a segment needs channels and pixels, not {} x {} x {}", shape.channels, shape.height,
      shape.width);
}

template <typename Real>
void ReferenceSegment<Real>::load_weights() {
  std::copy_n(weights_.bias, bias_.size(), bias_.data());
  std::copy_n(weights_.kernel, kernel_.size(), kernel_.data());
  // K - K^T: [o][i][ky][kx] of K^T is [i][o][2-ky][2-kx] of K.
  const int c = shape_.channels;
  for (int j = 0; j < shape_.num_couplings && shape_.force == Force::antisymmetric; ++j) {
    const Real* k = weights_.kernel + j * shape_.kernel_size();
    Real* difference = kernel_.data() + j * shape_.kernel_size();
    for (int o = 0; o < c; ++o)
      for (int i = 0; i < c; ++i)
        for (int tap = 0; tap < 9; ++tap)
          difference[(o * c + i) * 9 + tap] -= k[(i * c + o) * 9 + 8 - tap];
  }
  for (Real& value : kernel_.span()) value = round_operand(value, shape_.precision);
}

template <typename Real>
std::vector<Real> ReferenceSegment<Real>::operand(const Real* values, std::size_t size) const {
  std::vector<Real> rounded(values, values + size);
  for (Real& value : rounded) value = round_operand(value, shape_.precision);
  return rounded;
}

template <typename Real>
std::unique_ptr<Recording> ReferenceSegment<Real>::make_recording(int batch) {
  return std::make_unique<ReferenceRecording<Real>>(shape_, batch);
}

template <typename Real>
std::size_t ReferenceSegment<Real>::recording_bytes(int batch) const {
  return ReferenceRecording<Real>::size(shape_, batch) * sizeof(Real);
}

template <typename Real>
typename ReferenceSegment<Real>::Evaluation ReferenceSegment<Real>::evaluate(int coupling,
                                                                             const Real* x) const {
  const int c = shape_.channels, h = shape_.height, w = shape_.width;
  const Real* kernel = kernel_.data() + coupling * shape_.kernel_size();
  Evaluation at{std::vector<Real>(shape_.image_size()), std::vector<Real>(shape_.image_size())};
  // hidden = sigma(K x + b)
  for (int i = 0; i < c; ++i)
    std::fill_n(at.hidden.begin() + i * shape_.plane_size(), shape_.plane_size(),
                bias_[coupling * c + i]);
  convolve(kernel, c, c, h, w, operand(x, shape_.image_size()).data(), at.hidden.data());
  for (Real& value : at.hidden) value = std::max(value, Real{0});
  // F = K^T hidden, or hidden itself
  if (shape_.force == Force::symmetric) {
    convolve_adjoint(kernel, c, c, h, w, operand(at.hidden.data(), at.hidden.size()).data(),
                     at.force.data());
  } else {
    at.force = at.hidden;
  }
  return at;
}

template <typename Real>
void ReferenceSegment<Real>::advance(CouplingRange range, StateView<Real> state, StateNotes* notes,
                                     Recording* recording) {
  const auto gamma = static_cast<Real>(shape_.gamma), beta = static_cast<Real>(shape_.beta);
  const Real limit = std::ldexp(Real{1}, 24 - shape_.grid_bits);
  const std::size_t size = shape_.image_size();
  auto* record = static_cast<ReferenceRecording<Real>*>(recording);
  for (int n = 0; n < state.batch; ++n) {
    for (int j = range.first; j < range.last; ++j) {
      const int target_slot = (shape_.first_target + j) % 2;
      const auto scale = static_cast<Real>(shape_.scale[target_slot]);
      Real* target = state.slot[target_slot] + n * size;
      const Real* other = state.slot[1 - target_slot] + n * size;
      if (record != nullptr) {
        std::copy_n(target, size, record->values.data() + record->old_target(n, j));
        std::copy_n(other, size, record->values.data() + record->input(n, j));
      }
      const Evaluation at = evaluate(j, other);
      // target <- (gamma target + beta other) + round(s F(other))
      for (std::size_t p = 0; p < size; ++p) {
        const Real base = gamma * target[p] + beta * other[p];
        const Real increment = scale * at.force[p];
        const Real rounded = round_to_grid(increment, shape_.grid_bits);
        target[p] = base + rounded;
        if (notes == nullptr) continue;
        notes->largest = std::max(notes->largest, static_cast<float>(std::abs(target[p])));
        if (shape_.grid_bits == 0) continue;
        notes->out_of_range +=
            (std::abs(target[p]) >= limit) + (beta != 0 && std::abs(base) >= limit);
        notes->rounded_to_zero += (increment != 0 && rounded == 0);
      }
    }
  }
}

template <typename Real>
void ReferenceSegment<Real>::linearise(int coupling, const Real* x, const Evaluation& at,
                                       const Real* grad_force, Real* grad_x, Real* grad_kernel,
                                       Real* grad_bias) const {
  const int c = shape_.channels, h = shape_.height, w = shape_.width;
  const std::size_t size = shape_.image_size();
  const Real* kernel = kernel_.data() + coupling * shape_.kernel_size();
  const bool symmetric = shape_.force == Force::symmetric;
  // u = K x + b;  grad_u = sigma'(u) (K grad_F), or sigma'(u) grad_F
  std::vector<Real> grad_u(size);
  const std::vector<Real> grad_force_operand = operand(grad_force, size);
  if (symmetric) {
    convolve(kernel, c, c, h, w, grad_force_operand.data(), grad_u.data());
  } else {
    std::copy_n(grad_force, size, grad_u.begin());
  }
  for (std::size_t p = 0; p < size; ++p)
    if (!(at.hidden[p] > 0)) grad_u[p] = 0;

  // grad_x += K^T grad_u;  grad_b += sum grad_u
  const std::vector<Real> grad_u_operand = operand(grad_u.data(), size);
  const std::vector<Real> x_operand = operand(x, size);
  convolve_adjoint(kernel, c, c, h, w, grad_u_operand.data(), grad_x);
  for (int i = 0; i < c; ++i)
    for (std::size_t p = 0; p < shape_.plane_size(); ++p)
      grad_bias[i] += grad_u[i * shape_.plane_size() + p];

  if (symmetric) {
    // F = K^T z gives dK from (grad_F, z); u = K x + b gives dK from (x, grad_u)
    convolve_kernel_gradient(c, c, h, w, grad_force_operand.data(),
                             operand(at.hidden.data(), size).data(), grad_kernel);
    convolve_kernel_gradient(c, c, h, w, x_operand.data(), grad_u_operand.data(), grad_kernel);
    return;
  }
  // A = K - K^T:  dK[o][i][k] = dA[o][i][k] - dA[i][o][-k]
  std::vector<Real> grad_difference(shape_.kernel_size());
  convolve_kernel_gradient(c, c, h, w, x_operand.data(), grad_u_operand.data(),
                           grad_difference.data());
  for (int o = 0; o < c; ++o)
    for (int i = 0; i < c; ++i)
      for (int tap = 0; tap < 9; ++tap)
        grad_kernel[(o * c + i) * 9 + tap] +=
            grad_difference[(o * c + i) * 9 + tap] - grad_difference[(i * c + o) * 9 + 8 - tap];
}

template <typename Real>
void ReferenceSegment<Real>::retreat(CouplingRange range, StateView<Real> state,
                                     StateView<Real> adjoint, const Recording* recording,
                                     OverflowNote overflow) {
  const auto gamma = static_cast<Real>(shape_.gamma), beta = static_cast<Real>(shape_.beta);
  const std::size_t size = shape_.image_size();
  const auto* record = static_cast<const ReferenceRecording<Real>*>(recording);
  const std::size_t kernel_size = shape_.kernel_size(), bias_size = shape_.channels;
  // Of the micro-batch, by coupling of the range.
  std::vector<Real> grad_kernel((range.last - range.first) * kernel_size);
  std::vector<Real> grad_bias((range.last - range.first) * bias_size);
  std::vector<Real> grad_force(size);
  for (int n = 0; n < state.batch; ++n) {
    for (int j = range.last - 1; j >= range.first; --j) {
      const int target_slot = (shape_.first_target + j) % 2;
      const auto scale = static_cast<Real>(shape_.scale[target_slot]);
      Real* target = state.slot[target_slot] + n * size;
      Real* other = state.slot[1 - target_slot] + n * size;
      Real* adjoint_target = adjoint.slot[target_slot] + n * size;
      Real* adjoint_other = adjoint.slot[1 - target_slot] + n * size;
      if (record != nullptr) std::copy_n(record->values.data() + record->input(n, j), size, other);
      const Evaluation at = evaluate(j, other);
      // old target = ((target - round(s F)) - beta other) / gamma, gamma = +-1; -0 to +0, as
      // advance() never leaves a -0 behind
      for (std::size_t p = 0; p < size; ++p) {
        const Real rounded = round_to_grid(scale * at.force[p], shape_.grid_bits);
        target[p] = gamma * ((target[p] - rounded) - beta * other[p]) + Real{0};
      }
      if (record != nullptr)
        std::copy_n(record->values.data() + record->old_target(n, j), size, target);
      // the adjoint of the line
      for (std::size_t p = 0; p < size; ++p) {
        grad_force[p] = scale * adjoint_target[p];
        adjoint_other[p] += beta * adjoint_target[p];
        adjoint_target[p] *= gamma;
      }
      const int row = j - range.first;
      linearise(j, other, at, grad_force.data(), adjoint_other,
                grad_kernel.data() + row * kernel_size, grad_bias.data() + row * bias_size);
    }
  }
  for (int j = range.first; j < range.last; ++j) {
    const int row = j - range.first;
    const bool kernel_fits = add_contributions(grad_kernel.data() + row * kernel_size, kernel_size,
                                               gradient_.kernel + j * kernel_size);
    const bool bias_fits = add_contributions(grad_bias.data() + row * bias_size, bias_size,
                                             gradient_.bias + j * bias_size);
    if (!kernel_fits || !bias_fits) overflow.at(j);
  }
}

template float round_to_grid(float, int);
template double round_to_grid(double, int);
template float round_operand(float, Precision);
template double round_operand(double, Precision);
template void convolve(const float*, int, int, int, int, const float*, float*);
template void convolve(const double*, int, int, int, int, const double*, double*);
template void convolve_adjoint(const float*, int, int, int, int, const float*, float*);
template void convolve_adjoint(const double*, int, int, int, int, const double*, double*);
template void convolve_kernel_gradient(int, int, int, int, const float*, const float*, float*);
template void convolve_kernel_gradient(int, int, int, int, const double*, const double*, double*);
template class ReferenceSegment<float>;
template class ReferenceSegment<double>;

}  // namespace revode::reference
