// A plug-in whose GPU is a device in host memory, so that the program as a whole can be tried with
// --backend cuda on any machine: REVODE_CUDA_PLUGIN names it.
#include <cstdlib>
#include <memory>

#include "backend/cuda/cuda_backend.hpp"
#include "backend/cuda/host_device.hpp"
#include "backend/cuda/plugin.hpp"

namespace revode::cuda {
namespace {

constexpr int num_devices = 2;

GpuSurvey survey() { return {.status = GpuStatus::usable, .num_usable = num_devices}; }

/// Small enough that some segments go in clusters, and large ones not at all.
constexpr ClusterLimits limits{
    .shared_bytes = std::size_t{18} << 10, .cluster_size = 8, .num_multiprocessors = 12};

/// REVODE_HOST_DEVICES_DIFFER in the environment: device 1 is of another kind.
std::unique_ptr<Backend<float>> make_backend(int index) {
  auto device = std::make_unique<HostDevice>(RunOrder::random);
  if (index == 1 && std::getenv("REVODE_HOST_DEVICES_DIFFER") != nullptr)
    device->set_description("another device in host memory");
  device->set_num_devices(num_devices);
  device->set_cluster_limits(limits);
  return make_cuda_backend(std::move(device));
}

}  // namespace
}  // namespace revode::cuda

extern "C" __attribute__((visibility("default"))) const revode::cuda::Plugin revode_cuda_plugin;
const revode::cuda::Plugin revode_cuda_plugin = {REVODE_PLUGIN_VERSION, revode::count_memory_in,
                                                 revode::cuda::survey, revode::cuda::make_backend};
