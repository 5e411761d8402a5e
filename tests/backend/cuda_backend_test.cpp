// The CUDA backend on a device in host memory, in the tests of any backend.
#include "backend/cuda/cuda_backend.hpp"

#include "backend/backend_under_test.hpp"
#include "backend/cuda/host_device.hpp"
#include "support/staged_backend.hpp"

namespace revode {

std::vector<BackendUnderTest> backends_under_test() {
  return {{"cuda_on_host", [](int) {
             return std::make_unique<StagedBackend>(cuda::make_cuda_backend(
                 std::make_unique<cuda::HostDevice>(cuda::RunOrder::random)));
           }}};
}

INSTANTIATE_TEST_SUITE_P(Device, AnyBackend, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace revode
