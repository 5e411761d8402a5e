// A device that is a GPU, by the CUDA runtime and cuDNN.
#pragma once

#include <memory>

#include "backend/cuda/device.hpp"

namespace revode::cuda {

/// The GPU of that number, as the CUDA runtime counts them, one of num_devices that are of use.
std::unique_ptr<Device> make_cuda_device(int ordinal, int num_devices);

}  // namespace revode::cuda
