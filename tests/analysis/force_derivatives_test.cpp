// Derivatives of forces against the forces themselves, and against each other.
#include "revode/analysis/force_derivatives.hpp"

#include <cmath>
#include <cstddef>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "analysis/recorded_network.hpp"

namespace revode {
namespace {

class ForceDerivativesOf : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  RecordedNetwork network_{std::get<0>(GetParam()), std::get<1>(GetParam())};
};

INSTANTIATE_TEST_SUITE_P(All, ForceDerivativesOf,
                         testing::Combine(testing::ValuesIn(architecture_names()),
                                          testing::ValuesIn(test_backend_names())),
                         [](const auto& name) {
                           return std::get<0>(name.param) + "_" + std::get<1>(name.param);
                         });

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

// A force is linear between its kinks: along a step so small that it meets few of them, what is
// left beside F'(x) v is rounding, and what the few kinks make of the step.
TEST_P(ForceDerivativesOf, AreTheSlopesOfTheForces) {
  for (const int stage : {0, 1}) {
    ForceDerivatives forces = network_.forces(stage);
    const int coupling = network_.architecture.stages()[stage].couplings - 1;
    const auto x = uniform_values<float>(forces.size(), -1, 1, 1);
    const auto v = uniform_values<float>(forces.size(), -1, 1, 2);
    std::vector<float> moved = x, at_x(x.size()), at_moved(x.size()), slope(x.size());
    constexpr float step = 0x1p-10f;
    for (std::size_t i = 0; i < x.size(); ++i) moved[i] += step * v[i];

    forces.force(coupling, x, at_x);
    forces.force(coupling, moved, at_moved);
    forces.derivative(coupling, x, v, slope);

    double error = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
      error += std::pow((at_moved[i] - at_x[i]) / step - slope[i], 2);
    EXPECT_GT(dot(slope, slope), 0.1);
    EXPECT_LT(std::sqrt(error), 0.02 * std::sqrt(dot(slope, slope))) << "stage " << stage;
  }
}

TEST_P(ForceDerivativesOf, AndTheirTransposesMakeTheSameProducts) {
  ForceDerivatives forces = network_.forces(0);
  const auto x = uniform_values<float>(forces.size(), -1, 1, 1);
  const auto v = uniform_values<float>(forces.size(), -1, 1, 2);
  const auto w = uniform_values<float>(forces.size(), -1, 1, 3);
  std::vector<float> image(x.size()), transposed(x.size());

  forces.derivative(1, x, v, image);
  forces.transposed(1, x, w, transposed);

  // w . F'(x) v = F'(x)^T w . v, but for roundings of a float.
  EXPECT_NEAR(dot(w, image), dot(transposed, v), 1e-5 * std::sqrt(dot(w, w) * dot(image, image)));
}

}  // namespace
}  // namespace revode
