// The backend for CUDA devices: what is computed, in which order, on which stream. It speaks to the
// device through device.hpp alone.
#pragma once

#include <memory>

#include "revode/backend/backend.hpp"

#include "backend/cuda/device.hpp"

namespace revode::cuda {

std::unique_ptr<Backend<float>> make_cuda_backend(std::unique_ptr<Device> device);

}  // namespace revode::cuda
