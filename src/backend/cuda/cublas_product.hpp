// The products of matrices of a device, by cuBLAS: in true single precision, with the same bits
// every time.
#pragma once

#include <memory>
#include <vector>

#include <cuda_runtime.h>

#include "backend/cuda/device.hpp"

namespace revode::cuda {

/// Belongs to the device that is current when calls are made; its streams must be there until it
/// is gone.
class CublasProducts {
 public:
  CublasProducts();
  ~CublasProducts();

  void run(const Product& product, Stream stream, cudaStream_t cuda_stream);

 private:
  struct StreamTools;
  std::vector<std::unique_ptr<StreamTools>> tools_;  // by stream
};

}  // namespace revode::cuda
