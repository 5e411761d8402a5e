// The backends that tests of what is above backends run with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "revode/backend/backend.hpp"

#include "backend/cuda/cuda_backend.hpp"
#include "backend/cuda/host_device.hpp"
#include "support/deferred_backend.hpp"

namespace revode {

/// Late: nothing runs before the host waits for it, or has asked for it so often.
inline std::unique_ptr<Backend<float>> make_late_cuda_backend(int most_polls) {
  return cuda::make_cuda_backend(
      std::make_unique<cuda::HostDevice>(cuda::RunOrder::lazy, 0, most_polls));
}

/// With segments in one launch each, in clusters of blocks where images are large.
inline std::unique_ptr<Backend<float>> make_whole_cuda_backend(cuda::RunOrder order) {
  auto device = std::make_unique<cuda::HostDevice>(order);
  device->set_cluster_limits({.shared_bytes = std::size_t{16} << 10, .cluster_size = 8});
  return cuda::make_cuda_backend(std::move(device));
}

/// Those that this machine has, the deferred one, and CUDA's on a device in host memory.
inline std::vector<std::string> test_backend_names() {
  std::vector<std::string> names = usable_backend_names();
  names.emplace_back("deferred");
  names.emplace_back("cuda_on_host");
  names.emplace_back("whole_cuda_on_host");
  return names;
}
inline std::unique_ptr<Backend<float>> make_test_backend(const std::string& name, int num_threads) {
  if (name == "deferred") return std::make_unique<DeferredBackend<float>>();
  if (name == "cuda_on_host") return make_late_cuda_backend(3);
  if (name == "whole_cuda_on_host") return make_whole_cuda_backend(cuda::RunOrder::random);
  return make_backend(name, num_threads);
}

}  // namespace revode
