#include "backend/cuda/plugin.hpp"

#include <vector>

#include <cuda_runtime.h>

#include "backend/cuda/cuda_backend.hpp"
#include "backend/cuda/cuda_status.hpp"
#include "backend/cuda/device_cuda.hpp"

namespace revode::cuda {
namespace {

int capability_of(int ordinal) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal),
        "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal),
        "cudaDeviceGetAttribute");
  return 10 * major + minor;
}

int count_devices() {
  int count = 0;  // which stays as it is where the call fails
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  return count;
}

/// The ordinals of the devices that these kernels run on.
std::vector<int> usable_devices() {
  std::vector<int> usable;
  for (int ordinal = 0, count = count_devices(); ordinal < count; ++ordinal) {
    const int capability = capability_of(ordinal);
    if (capability >= least_capability && has_code_for(capability, REVODE_CUDA_ARCHITECTURES))
      usable.push_back(ordinal);
  }
  return usable;
}

/// Why the first device, and with it every one, is of no use.
GpuSurvey describe_first_device() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  GpuSurvey survey;
  survey.device = properties.name;
  survey.capability = capability_of(0);
  survey.architectures = REVODE_CUDA_ARCHITECTURES;
  survey.status =
      survey.capability < least_capability ? GpuStatus::device_too_old : GpuStatus::no_code;
  return survey;
}

GpuSurvey survey_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (status == cudaErrorInsufficientDriver) {
    // Where there is no driver at all, too: then its version is 0. Any of the same major will do.
    int version = 0;
    cudaDriverGetVersion(&version);
    return {.status = version == 0 ? GpuStatus::no_driver : GpuStatus::driver_too_old,
            .driver_version = version,
            .expected_version = CUDART_VERSION / 1000 * 1000};
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
    return {.status = GpuStatus::no_device};
  check(status, "cudaGetDeviceCount");

  const auto num_usable = static_cast<int>(usable_devices().size());
  if (num_usable == 0) return describe_first_device();
  return {.status = GpuStatus::usable, .num_usable = num_usable};
}

GpuSurvey survey() {
  try {
    return survey_devices();
  } catch (const std::exception& error) {
    return {.status = GpuStatus::failed, .error = error.what()};
  }
}

std::unique_ptr<Backend<float>> make_backend(int index) {
  const std::vector<int> usable = usable_devices();
  return make_cuda_backend(make_cuda_device(usable.at(static_cast<std::size_t>(index)),
                                            static_cast<int>(usable.size())));
}

}  // namespace
}  // namespace revode::cuda

extern "C" __attribute__((visibility("default"))) const revode::cuda::Plugin revode_cuda_plugin;
const revode::cuda::Plugin revode_cuda_plugin = {REVODE_PLUGIN_VERSION, revode::count_memory_in,
                                                 revode::cuda::survey, revode::cuda::make_backend};
