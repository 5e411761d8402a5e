// Time slices: any cut gives the same bits; what the modes keep, change and look for; memory.
#include "revode/model/time_slice.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "revode/core/buffer.hpp"

#include "support/slice_chain.hpp"
#include "support/test_backends.hpp"

namespace revode {
namespace {

Architecture make(const std::string& arch, std::vector<int> blocks = {2, 2, 1}) {
  ArchitectureOptions options;
  options.arch = arch;
  options.blocks = std::move(blocks);
  options.widths = {4, 6, 10};
  options.widths.resize(options.blocks.size());
  options.image_height = options.image_width = 8;
  options.num_classes = 4;
  return Architecture(options);
}

class TimeSliceOf : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Architectures, TimeSliceOf, testing::ValuesIn(architecture_names()),
                         [](const auto& arch) { return arch.param; });

TEST_P(TimeSliceOf, AChainOfSlicesEqualsOneSliceBitForBit) {
  const Architecture network = make(GetParam());
  const auto backend = make_reference_backend<float>();
  DeferredBackend<float> deferred;
  const TestBatch<float> batch(network, {3, 3, 2});
  SliceChain<float> whole(network, *backend);
  const double expected = whole.train(batch);
  const RangeCounts expected_counts = whole.range_counts();

  for (const std::vector<BlockRange>& cut :
       std::vector<std::vector<BlockRange>>{{{0, 1}, {1, 5}},  // inside a stage
                                            {{0, 2}, {2, 5}},  // behind a transition
                                            {{0, 3}, {3, 4}, {4, 5}},
                                            {{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 5}}}) {
    for (Backend<float>* of_chain :
         std::initializer_list<Backend<float>*>{backend.get(), &deferred}) {
      SCOPED_TRACE(fmt::format("{} slices, {}", cut.size(), of_chain->name()));
      SliceChain<float> chain(network, cut, *of_chain);
      const double loss = chain.train(batch);
      const RangeCounts counts = chain.range_counts();

      EXPECT_EQ(loss, expected);
      EXPECT_EQ(num_differing(chain.gradient(), whole.gradient()), 0u);
      EXPECT_EQ(num_differing(chain.values(), whole.values()), 0u);  // running averages, too
      EXPECT_EQ(num_differing(chain.logits(), whole.logits()), 0u);
      EXPECT_EQ(counts.out_of_range, expected_counts.out_of_range);
      EXPECT_EQ(counts.rounded_to_zero, expected_counts.rounded_to_zero);
      EXPECT_EQ(chain.largest_states(), whole.largest_states());
      EXPECT_GT(std::ranges::min(chain.largest_states()), 0);
    }
  }
}

TEST_P(TimeSliceOf, SizesOfNeighboursFitTogether) {
  const Architecture network = make(GetParam());
  const auto backend = make_reference_backend<float>();
  SliceChain<float> chain(network, {{0, 1}, {1, 2}, {2, 4}, {4, 5}}, *backend);

  for (int i = 0; i + 1 < 4; ++i)
    EXPECT_EQ(chain.part(i).slice().output_size(3), chain.part(i + 1).slice().input_size(3)) << i;
  EXPECT_TRUE(chain.part(0).slice().is_first());
  EXPECT_TRUE(chain.part(3).slice().is_last());
  EXPECT_FALSE(chain.part(1).slice().is_first() || chain.part(1).slice().is_last());
}

TEST_P(TimeSliceOf, StoreEqualsReverseBitForBit) {
  const Architecture network = make(GetParam());
  for (const std::string& name : test_backend_names()) {
    SCOPED_TRACE(name);
    const auto backend = make_test_backend(name, 2);
    const TestBatch<float> batch(network, {3, 2});
    SliceChain<float> reversed(network, *backend, Activations::reverse);
    SliceChain<float> stored(network, *backend, Activations::store);

    const double loss = reversed.train(batch);

    ASSERT_EQ(reversed.range_counts().out_of_range, 0);
    EXPECT_EQ(stored.train(batch), loss);
    EXPECT_EQ(num_differing(stored.gradient(), reversed.gradient()), 0u);
  }
}

TEST_P(TimeSliceOf, MicroBatchesSumTheirGradients) {
  const Architecture network = make(GetParam());
  const auto backend = make_reference_backend<double>();
  const TestBatch<double> both(network, {3, 2});
  TestBatch<double> first = both, second = both;
  first.micro_batches = {3};
  second.micro_batches = {2};
  second.images.erase(second.images.begin(), second.images.begin() + 3 * both.image_size);
  second.labels.erase(second.labels.begin(), second.labels.begin() + 3);
  SliceChain<double> chain(network, *backend);

  const double loss = chain.train(both);
  const std::vector<double> sum = chain.gradient();
  const double expected_loss = (3 * chain.train(first)) / 5;
  std::vector<double> expected = chain.gradient();
  const double second_loss = 2 * chain.train(second) / 5;
  for (std::size_t i = 0; i < expected.size(); ++i)
    expected[i] = 3.0 / 5 * expected[i] + 2.0 / 5 * chain.gradient()[i];

  EXPECT_NEAR(loss, expected_loss + second_loss, 1e-14);
  // Two contributions here, 3/5 and 2/5 of one there, each rounded by at most 2^-41; and the order
  // of a sum of entries below 10.
  constexpr double tolerance = 3 * 0x1p-41 + 1e-13;
  for (std::size_t i = 0; i < sum.size(); ++i) EXPECT_NEAR(sum[i], expected[i], tolerance) << i;
}

TEST_P(TimeSliceOf, EvaluationUsesRunningAveragesAndNotTheBatch) {
  const Architecture network = make(GetParam());
  const auto backend = make_reference_backend<float>();
  TestBatch<float> batch(network, {4});
  SliceChain<float> chain(network, *backend);
  chain.train(batch);  // moves the running averages
  const std::vector<float> values = chain.values();

  chain.forward(batch, Mode::evaluate);
  const std::vector<float> together = chain.logits();
  batch.micro_batches = {1, 1, 2};
  chain.forward(batch, Mode::evaluate);
  const std::vector<float> apart = chain.logits();
  chain.forward(batch, Mode::inspect);

  EXPECT_EQ(num_differing(apart, together), 0u);
  EXPECT_GT(num_differing(chain.logits(), together), together.size() / 2);
  EXPECT_EQ(num_differing(chain.values(), values), 0u);  // neither mode changes an average
}

TEST_P(TimeSliceOf, EvaluationFollowsTheRunningAveragesInTheValues) {
  const Architecture network = make(GetParam());
  const auto backend = make_reference_backend<float>();
  const TestBatch<float> batch(network, {4});
  SliceChain<float> chain(network, *backend);
  chain.forward(batch, Mode::evaluate);
  const std::vector<float> before = chain.logits();
  Share<float>& part = chain.part();
  part.values().fetch();

  for (const ParameterEntry* entry :
       {&part.map().opening_norm.mean, &part.map().opening_norm.variance,
        &part.map().closing_norm.mean, &part.map().closing_norm.variance}) {
    const float value = part.values().host()[entry->offset];
    part.values().host()[entry->offset] = value + 0.5f;
    part.values().store();
    chain.forward(batch, Mode::evaluate);
    EXPECT_GT(num_differing(chain.logits(), before), 0u) << entry->name;
    part.values().host()[entry->offset] = value;
  }
}

// average <- 0.9 average + 0.1 batch, once a micro-batch in order, variance times n / (n - 1).
TEST(RunningAverages, FollowEveryMicroBatchInOrderAndUnbiased) {
  const Architecture network = make("hamiltonian");
  const auto backend = make_reference_backend<double>();
  const TestBatch<double> batch(network, {3, 2});
  SliceChain<double> chain(network, *backend);
  auto& part = chain.part();
  const ParameterMap& map = part.map();
  std::vector<double> mean(4, 0.0), variance(4, 1.0);
  for (int m = 0; m < 2; ++m) {
    const int size = batch.micro_batches[m];
    std::vector<double> convolved(std::size_t{4} * size * 64);
    std::vector<double> batch_mean(4), batch_variance(4);
    backend->opening_convolve(
        network.opening(size), batch.images_of(m),
        {part.values().data() + map.opening_kernel.offset, nullptr, nullptr},
        {{convolved.data(), convolved.data() + std::size_t{2} * size * 64}, size},
        {batch_mean.data(), batch_variance.data()});
    const double count = size * 64;
    for (int f = 0; f < 4; ++f) {
      mean[f] = 0.9 * mean[f] + 0.1 * batch_mean[f];
      variance[f] = 0.9 * variance[f] + 0.1 * batch_variance[f] * count / (count - 1);
    }
  }

  chain.train(batch);

  const std::span<const double> values = part.values().read();
  for (int f = 0; f < 4; ++f) {
    EXPECT_NEAR(values[map.opening_norm.mean.offset + f], mean[f], 1e-15);
    EXPECT_NEAR(values[map.opening_norm.variance.offset + f], variance[f], 1e-15);
    EXPECT_GT(std::abs(values[map.closing_norm.mean.offset + f]), 1e-3);
  }
}

// One value a channel has no unbiased variance; it must not become a division by zero.
TEST(RunningAverages, StayFiniteWithOneValueAChannel) {
  ArchitectureOptions options;
  options.arch = "leapfrog";
  options.blocks = {1};
  options.widths = {2};
  options.image_height = options.image_width = 1;
  const Architecture network(options);
  const auto backend = make_reference_backend<float>();
  const TestBatch<float> batch(network, {1});
  SliceChain<float> chain(network, *backend);

  chain.train(batch);

  for (const float value : chain.values()) EXPECT_TRUE(std::isfinite(value));
}

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

TEST(Inspect, FindsNothingWhereEverythingIsFinite) {
  const Architecture network = make("hamiltonian");
  const auto backend = make_reference_backend<float>();
  SliceChain<float> chain(network, *backend);

  chain.forward(TestBatch<float>(network, {2}), Mode::inspect);

  EXPECT_FALSE(chain.part().slice().non_finite_layer().has_value());
}

TEST(Inspect, NamesTheFirstLayerWhoseOutputIsNotFinite) {
  const Architecture network = make("hamiltonian");  // couplings 0-3, 4-7, 8-9
  const auto backend = make_reference_backend<float>();
  const TestBatch<float> batch(network, {2});
  const auto finding = [&](auto&& damage) {
    SliceChain<float> chain(network, *backend);
    chain.part().values().fetch();
    damage(chain.part().map(), chain.part().values().host().data());
    chain.part().values().store();
    chain.part().slice().load_weights();
    chain.forward(batch, Mode::inspect);
    return chain.part().slice().non_finite_layer().value_or(NonFiniteLayer{0, -1}).layer;
  };

  const int opening = finding([](const ParameterMap& map, float* values) {
    values[map.opening_norm.shift.offset] = infinity;
  });
  const int second_stage = finding([](const ParameterMap& map, float* values) {
    values[map.stages[1].bias.offset + 3 * 3] = infinity;      // its last coupling
    values[map.stages[1].bias.offset + 2 * 3] = not_a_number;  // the one before
    values[map.closing_bias.offset] = infinity;
  });
  const int closing = finding(
      [](const ParameterMap& map, float* values) { values[map.closing_bias.offset] = infinity; });

  EXPECT_EQ(opening, 0);
  EXPECT_EQ(network.layer_name(opening), "the opening");
  EXPECT_EQ(second_stage, 1 + 4 + 2);
  EXPECT_EQ(network.layer_name(second_stage), "coupling 2 of stage 2");
  EXPECT_EQ(closing, 11);
  EXPECT_EQ(network.layer_name(closing), "the closing");
}

TEST(Inspect, CountsCouplingsOfTheStageAlsoWhereASliceBeginsInside) {
  const Architecture network = make("hamiltonian");
  const auto backend = make_reference_backend<float>();
  SliceChain<float> chain(network, {{0, 3}, {3, 5}}, *backend);
  auto& second = chain.part(1);
  second.values().fetch();
  second.values().host()[second.map().stages[1].bias.offset] = not_a_number;
  second.values().store();
  second.slice().load_weights();

  chain.forward(TestBatch<float>(network, {2}), Mode::inspect);

  EXPECT_FALSE(chain.part(0).slice().non_finite_layer().has_value());
  ASSERT_TRUE(second.slice().non_finite_layer().has_value());
  EXPECT_EQ(second.slice().non_finite_layer()->layer, 1 + 4 + 2);
}

// The gradient of a mini-batch has the same bits in whatever order its micro-batches go back; the
// running averages too.
TEST_P(TimeSliceOf, MicroBatchesMayGoBackInAnyOrder) {
  const Architecture network = make(GetParam());
  const auto backend = make_reference_backend<float>();
  const TestBatch<float> batch(network, {3, 2, 1, 3});
  DeferredBackend<float> deferred;
  SliceChain<float> ascending(network, *backend), shuffled(network, {{0, 3}, {3, 5}}, deferred);

  ascending.train(batch);
  shuffled.forward(batch, Mode::train);
  shuffled.backward(batch, {2, 0, 3, 1});

  EXPECT_EQ(num_differing(shuffled.gradient(), ascending.gradient()), 0u);
  EXPECT_EQ(num_differing(shuffled.values(), ascending.values()), 0u);
}

// What is told must be final then: replicas begin to add it up while the sweep goes on.
TEST_P(TimeSliceOf, GradientsAreToldOnceAndWhenTheyAreComplete) {
  const Architecture network = make(GetParam(), {7, 1, 1});
  for (const char* name : {"reference", "cpu"}) {
    SCOPED_TRACE(name);
    const auto backend = make_backend(name, 1);
    const TestBatch<float> batch(network, {3, 2});
    SliceChain<float> chain(network, *backend), untold(network, *backend);
    untold.train(batch);
    chain.forward(batch, Mode::train);
    Share<float>& share = chain.part();
    share.gradient().clear();
    Buffer<float> adjoint(share.slice().adjoint_capacity(3), Memory::state, backend->space());
    std::vector<int> times(share.map().size());
    std::vector<ExactSum> told(share.map().size());
    const auto on_gradient = [&](std::size_t first, std::size_t last) {
      const std::span<const ExactSum> sums = share.gradient().read_sums();
      for (std::size_t i = first; i < last; ++i) {
        ++times[i];
        told[i] = sums[i];
      }
    };

    share.slice().backward(1, 2, 5, nullptr, adjoint.data());
    share.slice().backward(0, 3, 5, nullptr, adjoint.data(), on_gradient);

    const std::span<const ExactSum> sums = share.gradient().read_sums();
    int num_wrong = 0;
    for (const ParameterEntry* entry : share.map().entries())
      for (std::size_t i = entry->offset; i < entry->offset + entry->size(); ++i)
        num_wrong +=
            times[i] != (entry->trainable ? 1 : 0) || (entry->trainable && told[i] != sums[i]);
    EXPECT_EQ(num_wrong, 0);
    share.slice().finish_sweep();
    share.gradient().finish();
    EXPECT_EQ(num_differing(chain.gradient(), untold.gradient()), 0u);
  }
}

TEST(GradientOverflow, IsThatOfTheLowestMicroBatchAndTheLayerNearestTheClosing) {
  const Architecture network = make("hamiltonian");
  const auto backend = make_reference_backend<float>();
  TestBatch<float> batch(network, {1, 1, 1});
  SliceChain<float> chain(network, *backend);
  TimeSlice<float>& slice = chain.part().slice();
  chain.train(batch);
  EXPECT_FALSE(slice.gradient_overflow().has_value());

  for (const int image : {1, 2}) batch.images[image * batch.image_size] = not_a_number;
  chain.forward(batch, Mode::train);
  chain.backward(batch, {2, 1, 0});

  ASSERT_TRUE(slice.gradient_overflow().has_value());
  EXPECT_EQ(slice.gradient_overflow()->micro_batch, 1);
  EXPECT_EQ(slice.gradient_overflow()->layer, network.closing_layer());

  slice.begin_sweep(3);
  slice.finish_sweep();
  slice.take_notes();
  EXPECT_FALSE(slice.gradient_overflow().has_value());
}

/// Bytes held while a mini-batch is between its sweeps: where the most is kept.
struct Held {
  std::int64_t state, stash, workspace;
  bool operator==(const Held&) const = default;
};
void PrintTo(const Held& held, std::ostream* out) {
  *out << "state " << held.state << ", stash " << held.stash << ", workspace " << held.workspace;
}

Held held_between_sweeps(const Architecture& network, Activations activations, int steps) {
  const auto backend = make_cpu_backend(2);
  const TestBatch<float> batch(network, {3, 2});
  const MemoryUse before = memory_use();
  SliceChain<float> chain(network, *backend, activations);
  for (int step = 1; step < steps; ++step) chain.train(batch);
  chain.forward(batch, Mode::train);
  const MemoryUse between = memory_use();
  chain.backward(batch);
  const auto held = [&](Memory category) {
    return between.current(category) - before.current(category);
  };
  return {held(Memory::state), held(Memory::stash), held(Memory::workspace)};
}

// The cpu backend sums gradients of a bounded number of couplings at a time, so that shallow
// networks may need less workspace: from that bound on nothing grows.
TEST(TimeSliceMemory, GrowsNeitherWithDepthNorWithSteps) {
  const auto held = [](int blocks, int steps) {
    return held_between_sweeps(make("hamiltonian", {blocks, blocks, blocks}), Activations::reverse,
                               steps);
  };
  const Held shallow = held(20, 2);

  EXPECT_GT(shallow.stash, 0);
  EXPECT_EQ(held(40, 2), shallow);
  EXPECT_EQ(held(20, 4), shallow);
}

TEST(TimeSliceMemory, GrowsWithDepthWhereActivationsAreStored) {
  const Held shallow = held_between_sweeps(make("hamiltonian", {2, 2, 2}), Activations::store, 2);
  const Held deep = held_between_sweeps(make("hamiltonian", {20, 20, 20}), Activations::store, 2);

  EXPECT_GT(deep.stash, 4 * shallow.stash);
}

// Images, inputs of both transitions and the end state: [2, c, H, W] each, c = 2, 3, 5.
TEST(TimeSliceMemory, TheStashIsWhatItsFormulaSays) {
  const Architecture network = make("hamiltonian");
  const auto backend = make_reference_backend<float>();
  SliceChain<float> chain(network, *backend);
  const std::size_t an_image = 3 * 64 + 2 * 2 * 64 + 2 * 3 * 16 + 2 * 5 * 4;

  EXPECT_EQ(chain.part().slice().stash_bytes(1), an_image * sizeof(float));
  EXPECT_EQ(chain.part().slice().stash_bytes(5), 5 * an_image * sizeof(float));
  EXPECT_EQ(static_cast<std::size_t>(held_between_sweeps(network, Activations::reverse, 1).stash),
            chain.part().slice().stash_bytes(3) + chain.part().slice().stash_bytes(2));
}

TEST(TimeSliceMemory, NoSliceKeepsMoreForMoreBlocks) {
  const auto backend = make_reference_backend<float>();
  const Architecture shallow = make("midpoint", {4, 2, 1}), deep = make("midpoint", {90, 80, 70});
  SliceChain<float> few(shallow, {{0, 2}, {2, 6}, {6, 7}}, *backend);
  SliceChain<float> many(deep, {{0, 60}, {60, 170}, {170, 240}}, *backend);

  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(many.part(i).slice().stash_bytes(4), few.part(i).slice().stash_bytes(4)) << i;
    EXPECT_EQ(many.part(i).slice().message_capacity(4), few.part(i).slice().message_capacity(4))
        << i;
    EXPECT_EQ(many.part(i).slice().adjoint_capacity(4), few.part(i).slice().adjoint_capacity(4))
        << i;
  }
}

}  // namespace
}  // namespace revode
