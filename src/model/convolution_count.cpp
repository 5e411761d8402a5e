#include "revode/model/convolution_count.hpp"

namespace revode {

ConvolutionCount convolutions_of_coupling(Force force, Activations activations) {
  const int kernels = force == Force::symmetric ? 2 : 1;
  return {.forward = kernels, .back = kernels * (activations == Activations::store ? 2 : 3)};
}

double convolution_flops(const SegmentShape& shape) {
  return 2.0 * static_cast<double>(shape.kernel_size()) * static_cast<double>(shape.plane_size());
}

}  // namespace revode
