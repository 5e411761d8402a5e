// The cpu backend with each instruction set, in the tests of any backend; and what is its own.
#include "backend/cpu_backend_test.hpp"

#include <string>
#include <vector>

#include "backend/backend_under_test.hpp"

namespace revode {

std::vector<BackendUnderTest> backends_under_test() {
  std::vector<BackendUnderTest> backends;
  for (const std::int64_t target : targets_under_test())
    backends.push_back({hwy::TargetName(target),
                        [target](int num_threads) {
                          use_targets(target);
                          return make_cpu_backend(num_threads);
                        },
                        [] { use_targets(0); }});
  return backends;
}

INSTANTIATE_TEST_SUITE_P(InstructionSet, AnyBackend, testing::ValuesIn(backends_under_test()),
                         backend_name);
INSTANTIATE_TEST_SUITE_P(InstructionSet, CpuBackend, testing::ValuesIn(targets_under_test()),
                         target_name);

namespace {

TEST_P(CpuBackend, DescriptionNamesInstructionSetAndThreads) {
  const std::string text = make_cpu_backend(3)->description();

  EXPECT_NE(text.find(hwy::TargetName(GetParam())), std::string::npos) << text;
  EXPECT_NE(text.find("3 threads"), std::string::npos) << text;
}

}  // namespace
}  // namespace revode
