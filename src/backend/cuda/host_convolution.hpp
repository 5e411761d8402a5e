// The convolutions of a device by plain loops in host memory.
#pragma once

#include "backend/cuda/device.hpp"

namespace revode::cuda {

void convolve_plainly(const Convolution& convolution);
void convolve_plainly(const ConvolutionGradient& gradient);

}  // namespace revode::cuda
