// Tests of the cpu backend alone: each is made with every instruction set that this processor has
// and the kernels were compiled for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "backend/backend_under_test.hpp"
#include "backend/cpu/targets.hpp"
// clang-format off
#include "hwy/highway.h"  // after the choice of targets
// clang-format on

namespace revode {

/// targets: instruction sets to choose the best of; 0: whatever the processor has.
inline void use_targets(std::int64_t targets) {
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

/// The instruction sets to test: where not every case is played those with vectors alone, which
/// share their loops with the one without.
inline std::vector<std::int64_t> targets_under_test() {
  std::vector<std::int64_t> targets = hwy::SupportedAndGeneratedTargets();
  if (!all_cases() && targets.size() > 1)
    std::erase_if(targets, [](std::int64_t target) { return target == HWY_SCALAR; });
  return targets;
}

class CpuBackend : public testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override { use_targets(GetParam()); }
  void TearDown() override { use_targets(0); }
};

inline std::string target_name(const testing::TestParamInfo<std::int64_t>& info) {
  return hwy::TargetName(info.param);
}

}  // namespace revode
