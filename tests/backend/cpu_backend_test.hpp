// Tests of the cpu backend alone: each is made with every instruction set that this processor has
// and the kernels were compiled for.
#pragma once

#include <cstdint>
#include <string>

#include <gtest/gtest.h>

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

class CpuBackend : public testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override { use_targets(GetParam()); }
  void TearDown() override { use_targets(0); }
};

inline std::string target_name(const testing::TestParamInfo<std::int64_t>& info) {
  return hwy::TargetName(info.param);
}

}  // namespace revode
