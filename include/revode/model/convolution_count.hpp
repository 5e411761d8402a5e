// Operations that a coupling is counted for, in figures of speed.
#pragma once

#include "revode/backend/segment.hpp"
#include "revode/model/time_slice.hpp"

namespace revode {

/// Convolutions that a coupling counts for, whatever the kernels do instead: of c channels with c,
/// 3x3, each 2 * 9 * c * c * height * width operations an image. A force that is F = K^T sigma(K x)
/// takes 2 forward and 6 back (F again, two adjoints, two kernel gradients), or 4 where the
/// activations were stored; one with a single kernel takes half of each.
struct ConvolutionCount {
  int forward = 0;
  int back = 0;
};
ConvolutionCount convolutions_of_coupling(Force force, Activations activations);
/// Operations of one convolution of `shape` for one image.
double convolution_flops(const SegmentShape& shape);

}  // namespace revode
