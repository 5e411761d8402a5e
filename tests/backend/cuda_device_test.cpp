// The CUDA backend on a GPU, where this machine has one, in the tests of any backend. Elsewhere
// they are skipped, and say why.
#include "backend/backend_under_test.hpp"
#include "support/staged_backend.hpp"

namespace revode {

std::vector<BackendUnderTest> backends_under_test() {
  if (!why_no_gpu().reason.empty()) return {};
  // The library's algorithm goes by the size of the batch.
  return {{.name = "cuda",
           .make =
               [](int num_threads) {
                 return std::make_unique<StagedBackend>(make_backend("cuda", num_threads));
               },
           .images_are_apart = false}};
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(AnyBackend);
INSTANTIATE_TEST_SUITE_P(Device, AnyBackend, testing::ValuesIn(backends_under_test()),
                         backend_name);

TEST(CudaDevice, IsThere) {
  const std::string why_not = why_no_gpu().reason;
  if (!why_not.empty()) GTEST_SKIP() << why_not;
  EXPECT_EQ(make_backend("cuda", 1)->name(), "cuda");
}

}  // namespace revode
