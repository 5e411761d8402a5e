// Jacobians by depth: what the algebra of each architecture says of them, and the network itself.
#include "revode/analysis/depth_jacobians.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/analysis/spectrum.hpp"

#include "analysis/recorded_network.hpp"

namespace revode {
namespace {

class DepthJacobiansOf : public testing::TestWithParam<std::string> {
 protected:
  RecordedNetwork network_{GetParam(), "reference"};

  std::vector<double> random(std::size_t size, std::uint64_t stream) {
    const auto values = uniform_values<float>(size, -1, 1, stream);
    return {values.begin(), values.end()};
  }
};

INSTANTIATE_TEST_SUITE_P(Architectures, DepthJacobiansOf, testing::ValuesIn(architecture_names()),
                         [](const auto& arch) { return arch.param; });

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void expect_transposes(LinearOperator& matrix, const std::vector<double>& v,
                       const std::vector<double>& w) {
  std::vector<double> image(v.size()), transposed(v.size());
  matrix.apply(v, image);
  matrix.apply_transposed(w, transposed);
  EXPECT_NEAR(dot(w, image), dot(transposed, v), 1e-5 * std::sqrt(dot(w, w) * dot(image, image)));
}

TEST_P(DepthJacobiansOf, HaveTransposes) {
  for (const int block : {1, 4}) {
    ForceDerivatives forces = network_.forces(block == 1 ? 0 : 1);
    RightHandSideJacobian jacobian(network_.architecture, block, network_.record, 1, forces);
    expect_transposes(jacobian, random(jacobian.size(), 1), random(jacobian.size(), 2));
    DepthMapJacobian map(network_.architecture, {block, block + 1}, network_.record, 1, forces);
    expect_transposes(map, random(map.size(), 1), random(map.size(), 2));
  }
}

// Products of two positive semidefinite matrices have real eigenvalues from 0 on, and so have, with
// the sign turned, the squares of the Jacobian of the pair; sigma' A, A antisymmetric, has those of
// an antisymmetric matrix. Where a zero is defective, rounding by e scatters it by sqrt(e).
TEST_P(DepthJacobiansOf, HaveImaginaryEigenvalues) {
  for (const int block : {0, 2, 3}) {
    ForceDerivatives forces = network_.forces(block < 3 ? 0 : 1);
    RightHandSideJacobian jacobian(network_.architecture, block, network_.record, 0, forces);

    const auto values =
        eigenvalues_of(network_.architecture.rule().equation, all_eigenvalues(jacobian));

    const double largest = std::abs(*std::ranges::max_element(
        values, {}, [](const std::complex<double>& value) { return std::abs(value); }));
    EXPECT_GT(largest, 0.1);
    for (const std::complex<double>& value : values) {
      EXPECT_LT(std::abs(value.real()), 2e-3 * largest) << block;
      if (std::abs(value) > 0.1 * largest) {
        EXPECT_LT(std::abs(value.real()), 1e-5 * largest) << block;
      }
    }
  }
}

// The map's Jacobian is the slope of the sweep itself, block by block, from a state moved a little.
TEST_P(DepthJacobiansOf, OfTheMapAreTheSlopesOfTheNetwork) {
  RecordedNetwork network(GetParam(), "reference", 0);
  const Architecture& architecture = network.architecture;
  ForceDerivatives forces = network.forces(0);
  DepthMapJacobian map(architecture, {0, 3}, network.record, 0, forces);
  const auto segment =
      network.backend->make_segment(architecture.segment(0, 0, architecture.stages()[0].couplings));
  Share<float>& share = network.chain.part();
  const ParameterMap::StageEntries& arrays = share.map().stages[0];
  segment->bind(
      {share.values().data() + arrays.kernel.offset, share.values().data() + arrays.bias.offset});
  segment->load_weights();
  const std::vector<double> v = random(map.size(), 1);
  constexpr float step = 0x1p-10f;

  std::vector<float> moved = network.record.state({0}, 0);
  for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += step * static_cast<float>(v[i]);
  segment->advance({0, architecture.stages()[0].couplings},
                   {{moved.data(), moved.data() + moved.size() / 2}, 1}, nullptr, nullptr);
  std::vector<double> slope(map.size());
  map.apply(v, slope);

  const std::vector<float> unmoved = network.record.state({2, true}, 0);
  double error = 0;
  for (std::size_t i = 0; i < slope.size(); ++i)
    error += std::pow((moved[i] - unmoved[i]) / step - slope[i], 2);
  EXPECT_LT(std::sqrt(error), 0.01 * std::sqrt(dot(slope, slope)));
}

// Steps of the pair and of second order are symplectic, M^T W M = W with W = [0, 1; -1, 0];
// leapfrog as well in (older, newer). So no direction can shrink unless another grows.
TEST_P(DepthJacobiansOf, OfTheMapAreSymplecticWhereTheEquationIs) {
  const Architecture& architecture = network_.architecture;
  if (architecture.rule().equation == Equation::first_order) return;
  ForceDerivatives forces = network_.forces(0);
  DepthMapJacobian map(architecture, {0, 3}, network_.record, 0, forces);
  const auto omega = [](const std::vector<double>& v) {
    std::vector<double> turned(v.size());
    const std::size_t half = v.size() / 2;
    for (std::size_t i = 0; i < half; ++i) {
      turned[i] = v[half + i];
      turned[half + i] = -v[i];
    }
    return turned;
  };
  const std::vector<double> v = random(map.size(), 1), w = random(map.size(), 2);
  std::vector<double> of_v(v.size()), of_w(w.size());

  map.apply(v, of_v);
  map.apply(w, of_w);

  // A stage of an odd number of leapfrog steps leaves the newer state in the other slot, which
  // turns the sign.
  const double sign = architecture.stages()[0].couplings % 2 == 0 ? 1 : -1;
  EXPECT_NEAR(dot(of_w, omega(of_v)), sign * dot(w, omega(v)),
              1e-5 * std::sqrt(dot(of_w, of_w) * dot(of_v, of_v)));
}

}  // namespace
}  // namespace revode
