// What the tests of every backend share, which hold it against the reference. A test program says
// in backends_under_test() which backends those are.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/backend/backend.hpp"
#include "revode/core/random.hpp"

namespace revode {

/// A backend that takes arrays of the host.
struct BackendUnderTest {
  std::string name;
  std::function<std::unique_ptr<Backend<float>>(int num_threads)> make;
  /// Called behind each test, when its backends are gone.
  std::function<void()> done = [] {};
  /// Whether an image has the same bits whatever is with it in a batch.
  bool images_are_apart = true;
};

std::vector<BackendUnderTest> backends_under_test();

/// Whether every case is played: not under the address sanitizer, where a sweep takes ten times as
/// long, unless REVODE_ALL_CASES is in the environment.
inline bool all_cases() {
#ifdef __SANITIZE_ADDRESS__
  return std::getenv("REVODE_ALL_CASES") != nullptr;
#else
  return true;
#endif
}

class AnyBackend : public testing::TestWithParam<BackendUnderTest> {
 protected:
  static std::unique_ptr<Backend<float>> make(int num_threads) {
    return GetParam().make(num_threads);
  }
  void TearDown() override { GetParam().done(); }
};

inline std::string backend_name(const testing::TestParamInfo<BackendUnderTest>& info) {
  return info.param.name;
}

/// Runs check(backend) with each of them, for tests that would compute the same reference anew.
template <typename Check>
void with_each_backend(int num_threads, Check&& check) {
  for (const BackendUnderTest& under_test : backends_under_test()) {
    SCOPED_TRACE(under_test.name);
    check(*under_test.make(num_threads));
    under_test.done();
  }
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
