// The gradient of whole networks, in double, against central differences: every parameter of every
// architecture.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/slice_chain.hpp"

namespace revode {
namespace {

struct Case {
  std::string name, arch;
  std::vector<int> blocks, widths;
};

// Surpluses of channels that are even and odd at the transitions; even and odd numbers of
// couplings, so that the closing reads either slot.
const std::vector<Case> cases = {
    {"hamiltonian", "hamiltonian", {1, 2, 1}, {2, 4, 10}},
    {"hamiltonian_one_stage", "hamiltonian", {2}, {4}},
    {"leapfrog_even", "leapfrog", {2, 1, 1}, {2, 3, 5}},
    {"leapfrog_odd", "leapfrog", {2, 3}, {2, 2}},
    {"midpoint_even", "midpoint", {1, 2, 1}, {2, 4, 5}},
    {"midpoint_odd", "midpoint", {1, 2}, {3, 4}},
};

class WholeNetwork : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Cases, WholeNetwork, testing::ValuesIn(cases),
                         [](const auto& the_case) { return the_case.param.name; });

Architecture make(const Case& the_case) {
  ArchitectureOptions options;
  options.arch = the_case.arch;
  options.blocks = the_case.blocks;
  options.widths = the_case.widths;
  options.step_size = 0.3;
  options.grid_bits = 0;
  options.image_channels = 2;
  options.image_height = 4;
  options.image_width = 8;
  options.num_classes = 3;
  return Architecture(options);
}

// Central differences of step 1e-6 are off by 1e-16 / 1e-6 from rounding and by 1e-12 times the
// third derivative, and derivatives here are 0.01 to 1: 1e-7 of the largest leaves room. A ReLU
// that opens within a step would show as about 1e-4; with these numbers none does.
TEST_P(WholeNetwork, GradientMatchesFiniteDifferencesForEveryParameter) {
  constexpr double step = 1e-6, tolerance = 1e-7;
  const Architecture network = make(GetParam());
  const auto backend = make_reference_backend<double>();
  const TestBatch<double> batch(network, {3, 2, 2});
  SliceChain<double> chain(network, *backend);
  Share<double>& part = chain.part();
  part.values().fetch();
  const std::span<double> values = part.values().host();
  const auto loss = [&] {
    part.values().store();
    part.slice().load_weights();
    return chain.forward(batch, Mode::inspect);  // batch statistics, and nothing else changes
  };

  chain.train(batch);

  int num_tested = 0;
  for (const ParameterEntry* entry : part.map().entries()) {
    const std::span<const double> gradient =
        part.gradient().read_values().subspan(entry->offset, entry->size());
    if (!entry->trainable) {
      EXPECT_EQ(std::count(gradient.begin(), gradient.end(), 0.0),
                static_cast<std::ptrdiff_t>(gradient.size()))
          << entry->name;
      continue;
    }
    expect_gradient(entry->name, loss, values.subspan(entry->offset, entry->size()), gradient, step,
                    tolerance);
    ++num_tested;
  }
  EXPECT_EQ(num_tested, 3 + 2 * static_cast<int>(network.stages().size()) + 4);
}

// The loss that training reports is the one that was differentiated.
TEST_P(WholeNetwork, TrainingAndInspectionSeeTheSameLoss) {
  const Architecture network = make(GetParam());
  const auto backend = make_reference_backend<double>();
  const TestBatch<double> batch(network, {3, 2, 2});
  SliceChain<double> chain(network, *backend);

  EXPECT_EQ(chain.forward(batch, Mode::inspect), chain.train(batch));
}

// Mean over the mini-batch also where micro-batches differ in size: -log softmax of the label.
TEST_P(WholeNetwork, LossIsTheMeanCrossEntropyOfTheLogits) {
  const Architecture network = make(GetParam());
  const auto backend = make_reference_backend<double>();
  const TestBatch<double> batch(network, {3, 1});
  SliceChain<double> chain(network, *backend);

  const double loss = chain.forward(batch, Mode::inspect);

  double expected = 0;
  for (int n = 0; n < 4; ++n) {
    double sum = 0;
    for (int k = 0; k < 3; ++k) sum += std::exp(chain.logits()[3 * n + k]);
    expected += (std::log(sum) - chain.logits()[3 * n + batch.labels[n]]) / 4;
  }
  EXPECT_NEAR(loss, expected, 1e-14);  // a dozen double operations on numbers of size 1
}

}  // namespace
}  // namespace revode
