// The backends that tests of what is above backends run with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "revode/backend/backend.hpp"

#include "support/deferred_backend.hpp"

#ifndef REVODE_WITHOUT_HOST_DEVICE
#include "backend/cuda/cuda_backend.hpp"
#include "backend/cuda/host_device.hpp"
#endif

namespace revode {

/// CUDA's backend on a device in host memory.
struct HostDeviceBackend {
  std::string name;
  std::unique_ptr<Backend<float>> (*make)();
};

#ifdef REVODE_WITHOUT_HOST_DEVICE
inline const std::vector<HostDeviceBackend> host_device_backends;
#else
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

inline const std::vector<HostDeviceBackend> host_device_backends{
    {"cuda_on_host", [] { return make_late_cuda_backend(3); }},
    {"whole_cuda_on_host", [] { return make_whole_cuda_backend(cuda::RunOrder::random); }}};
#endif

/// Those that this machine has, the deferred one, and CUDA's on a device in host memory.
inline std::vector<std::string> test_backend_names() {
  std::vector<std::string> names = usable_backend_names();
  names.emplace_back("deferred");
  for (const HostDeviceBackend& backend : host_device_backends) names.push_back(backend.name);
  return names;
}
inline std::unique_ptr<Backend<float>> make_test_backend(const std::string& name, int num_threads) {
  if (name == "deferred") return std::make_unique<DeferredBackend<float>>();
  for (const HostDeviceBackend& backend : host_device_backends)
    if (name == backend.name) return backend.make();
  return make_backend(name, num_threads);
}

}  // namespace revode
