// The convolutions of a device, by cuDNN: in true single precision, or of rounded operands on
// tensor cores, by plans (cudnn_plan.hpp) that are kept for each shape.
#pragma once

#include <memory>

#include <cuda_runtime.h>

#include "backend/cuda/device.hpp"

namespace revode::cuda {

/// Belongs to the device that is current when calls are made; its streams must be there until it
/// is gone.
class CudnnConvolutions {
 public:
  CudnnConvolutions();
  ~CudnnConvolutions();

  void run(const Convolution& convolution, Stream stream, cudaStream_t cuda_stream);
  void run(const ConvolutionGradient& gradient, Stream stream, cudaStream_t cuda_stream);

  /// How often memory of its own has moved.
  int num_moves() const;

 private:
  struct Internals;
  std::unique_ptr<Internals> internals_;
};

}  // namespace revode::cuda
