// The CUDA backend on a device in host memory, in the tests of any backend; and what is its own.
#include "backend/cuda/cuda_backend.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "revode/core/buffer.hpp"

#include "backend/backend_under_test.hpp"
#include "backend/cuda/host_device.hpp"
#include "support/staged_backend.hpp"

namespace revode {
namespace {

std::unique_ptr<Backend<float>> make_on_host(cuda::RunOrder order) {
  return cuda::make_cuda_backend(std::make_unique<cuda::HostDevice>(order));
}

constexpr cuda::RunOrder all_orders[] = {cuda::RunOrder::eager, cuda::RunOrder::lazy,
                                         cuda::RunOrder::random};

}  // namespace

std::vector<BackendUnderTest> backends_under_test() {
  return {{"cuda_on_host", [](int) {
             return std::make_unique<StagedBackend>(make_on_host(cuda::RunOrder::random));
           }}};
}

INSTANTIATE_TEST_SUITE_P(Device, AnyBackend, testing::ValuesIn(backends_under_test()),
                         backend_name);

namespace {

TEST(CudaBackend, ArraysMayBeGivenBackWhileCopiesUseThem) {
  for (const cuda::RunOrder order : all_orders) {
    const auto backend = make_on_host(order);
    const std::vector<float> values(100, 1.5f);
    std::vector<float> result(100);
    {
      Buffer<float> array(100, Memory::workspace, backend->space());
      backend->copy_in(array.data(), values.data(), array.bytes());
      backend->copy_out(result.data(), array.data(), array.bytes());
    }
    backend->wait(backend->mark());

    EXPECT_EQ(result, values);
  }
}

// Messages that move meanwhile ask whether copies are done: what is told to be there must be.
TEST(CudaBackend, ProgressMayAskForMarks) {
  for (const cuda::RunOrder order : all_orders) {
    const auto backend = make_on_host(order);
    const std::vector<float> values(100, 1.5f);
    std::vector<float> first(100), second(100);
    Buffer<float> array(100, Memory::workspace, backend->space());
    backend->copy_in(array.data(), values.data(), array.bytes());
    backend->copy_out(first.data(), array.data(), array.bytes());
    const Mark behind_first = backend->mark();
    backend->copy_out(second.data(), array.data(), array.bytes());
    const Mark behind_second = backend->mark();
    backend->set_progress([&] { backend->reached(behind_first); });

    backend->wait(behind_first);
    EXPECT_EQ(first, values);
    if (backend->reached(behind_second)) {
      EXPECT_EQ(second, values);
    }
    backend->wait(behind_second);
    EXPECT_EQ(second, values);
  }
}

}  // namespace
}  // namespace revode
