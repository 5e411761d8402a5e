// Memory of the device, given and taken back in the order of a stream.
#pragma once

#include <cstddef>
#include <string_view>

#include <cuda_runtime.h>

#include "revode/core/memory_space.hpp"

#include "backend/cuda/cuda_status.hpp"

namespace revode::cuda {

class StreamMemory final : public MemorySpace {
 public:
  explicit StreamMemory(cudaStream_t stream) : stream_(stream) {}
  std::string_view name() const override { return "device"; }
  bool host_accessible() const override { return false; }
  void* allocate(std::size_t bytes) override {
    void* pointer = nullptr;
    check(cudaMallocAsync(&pointer, bytes, stream_), "cudaMallocAsync");
    check(cudaMemsetAsync(pointer, 0, bytes, stream_), "cudaMemsetAsync");
    return pointer;
  }
  void release(void* pointer, std::size_t) noexcept override {
    if (cudaFreeAsync(pointer, stream_) != cudaSuccess) cudaGetLastError();
  }

 private:
  cudaStream_t stream_;
};

}  // namespace revode::cuda
