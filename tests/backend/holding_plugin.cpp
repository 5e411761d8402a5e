// A plug-in of this version that holds a Buffer from its first survey on.
#include "backend/cuda/plugin.hpp"

namespace {

revode::cuda::GpuSurvey hold() {
  static revode::Buffer<char> held(1000, revode::Memory::workspace);
  return {.status = revode::cuda::GpuStatus::no_device};
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const revode::cuda::Plugin revode_cuda_plugin;
const revode::cuda::Plugin revode_cuda_plugin = {REVODE_PLUGIN_VERSION, revode::count_memory_in,
                                                 hold, nullptr};
