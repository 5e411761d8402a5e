// Batch norm and ReLU of opening, transition and closing: one plane each, in one thread. Free of
// batches and threads; the instruction set is chosen when they are called.
#pragma once

#include <cmath>

#include "revode/backend/ends.hpp"

#include "backend/cpu/image_plane.hpp"

namespace revode::cpu {

/// One feature of a batch norm: xhat = (x - mean) * inverse_deviation, y = scale * xhat + shift.
struct Norm {
  Norm(NormStatistics statistics, int feature, float scale_in, float shift_in)
      : mean(static_cast<float>(statistics.mean[feature])),
        inverse_deviation(
            static_cast<float>(1 / std::sqrt(statistics.variance[feature] + norm_epsilon))),
        scale(scale_in),
        shift(shift_in) {}

  float mean, inverse_deviation, scale, shift;
};

/// Two sums over a plane, in double.
struct SumPair {
  double first = 0;
  double second = 0;
  SumPair& operator+=(const SumPair& more) {
    first += more.first;
    second += more.second;
    return *this;
  }
};

/// sum x, sum x^2
SumPair plane_moments(const Plane& x);

/// sum relu(norm(x))
double sum_norm_relu(const Plane& x, const Norm& norm);

/// y <- round(relu(norm(x))); y may be x.
void apply_norm_relu(const Plane& x, const Norm& norm, int grid_bits, const MutablePlane& y);

/// With g = grad where norm(x) > 0, else 0:  sum g, sum g xhat
SumPair norm_relu_gradient_sums(const Plane& x, const Norm& norm, const Plane& grad);

/// out <- scale * inverse_deviation * (g - means.first - xhat * means.second); out may be grad.
void norm_relu_backward(const Plane& x, const Norm& norm, const Plane& grad, const SumPair& means,
                        const MutablePlane& out);

}  // namespace revode::cpu
