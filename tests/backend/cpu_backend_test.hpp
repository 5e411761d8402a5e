// What the tests of the cpu backend share: each is made with every instruction set that this
// processor has and the kernels were compiled for.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/core/random.hpp"

#include "backend/cpu/targets.hpp"
#include "gtest/gtest.h"
#include "hwy/highway.h"

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

/// Runs `check` with each instruction set, for tests that would compute the same reference anew.
template <typename Check>
void with_each_instruction_set(Check&& check) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    use_targets(target);
    check();
  }
  use_targets(0);
}

inline std::string target_name(const testing::TestParamInfo<std::int64_t>& info) {
  return hwy::TargetName(info.param);
}

/// Uniform multiples of `unit` in [-bound, bound], no -0; `stream` keeps arrays apart.
inline std::vector<float> random_multiples(std::size_t size, double unit, double bound,
                                           std::uint64_t stream) {
  RandomStream random(1, Purpose::check, stream);
  std::vector<float> values(size);
  for (float& value : values)
    value = static_cast<float>(std::nearbyint(random.uniform(-bound, bound) / unit) * unit) + 0.0f;
  return values;
}

/// To compare bits, where == would take -0 for +0.
inline std::vector<std::uint32_t> bits(const std::vector<float>& values) {
  std::vector<std::uint32_t> result(values.size());
  for (std::size_t k = 0; k < values.size(); ++k)
    result[k] = std::bit_cast<std::uint32_t>(values[k]);
  return result;
}

inline std::vector<float> poison(std::size_t size) {
  return std::vector<float>(size, std::numeric_limits<float>::quiet_NaN());
}

/// |a - b| / |b|, Euclidean; NaN where either holds one.
template <typename Vector>
double relative_error(const Vector& a, const Vector& b) {
  double error = 0, norm = 1e-30;
  for (std::size_t k = 0; k < b.size(); ++k) {
    error += (double{a[k]} - double{b[k]}) * (double{a[k]} - double{b[k]});
    norm += double{b[k]} * double{b[k]};
  }
  return std::sqrt(error / norm);
}

/// Float sums of up to some 10,000 products in another order: sqrt(1e4) * 2^-24 = 6e-6, with room
/// for a few couplings in a row. Errors are taken in the norm, as one ReLU more or less that opens
/// (an argument within rounding of zero) moves single entries.
inline constexpr double sum_tolerance = 1e-4;

}  // namespace revode
