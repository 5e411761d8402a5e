// Cutting images, opening, transition and closing of the reference backend: numbers worked out by
// hand, and finite differences.
#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "revode/backend/backend.hpp"

#include "support/backend_calls.hpp"
#include "support/exact_values.hpp"
#include "support/numbers.hpp"

namespace revode {
namespace {

using Values = std::vector<double>;

/// Both slots of a state.
struct State {
  explicit State(std::size_t size) : slot{Values(size), Values(size)} {}
  State(Values slot0, Values slot1) : slot{std::move(slot0), std::move(slot1)} {}
  StateView<double> view(int batch) { return {{slot[0].data(), slot[1].data()}, batch}; }
  Values slot[2];
};

double loss_of(const State& state, const State& weight) {
  return dot(state.slot[0], weight.slot[0]) + dot(state.slot[1], weight.slot[1]);
}

/// Two images of one pixel (1 and 3), two features: middle taps 2 and -1 -> (2, 6) and (-1, -3).
struct TinyOpening {
  OpeningShape shape{.batch = 2,
                     .in_channels = 1,
                     .height = 1,
                     .width = 1,
                     .channels = 1,
                     .features = {.joined = true, .slot = 1},
                     .grid_bits = 0};
  Values images{1, 3}, kernel = Values(18, 0.0), scale{3, 1}, shift{1, 0};

  TinyOpening() {
    kernel[4] = 2;
    kernel[9 + 4] = -1;
  }
  OpeningWeights<double> weights() const { return {kernel.data(), scale.data(), shift.data()}; }
};

/// state <- the opening of its images, with the statistics that they have.
void open(const TinyOpening& opening, State& state) {
  const auto backend = make_reference_backend<double>();
  backend->opening_convolve(opening.shape, opening.images.data(), opening.weights(), state.view(2),
                            NormStatistics{});
  OwnStatistics statistics({4, -2}, {4, 1});
  backend->opening_normalise(opening.shape, opening.weights(), statistics, state.view(2));
}

// pixels / 255 of two images [1, 2, 3]: 0 0.2 0.4 / 0.6 0.8 1, and 1 for all of the other
TEST(CutImages, ShiftsAndThenMirrorsWhatIsNormalised) {
  const std::vector<std::uint8_t> pixels{0,   51,  102, 153, 204, 255,  //
                                         255, 255, 255, 255, 255, 255};
  const double mean = 1, deviation = 0.5;
  const StoredImages<double> stored{.num_images = 2,
                                    .channels = 1,
                                    .height = 2,
                                    .width = 3,
                                    .pixels = pixels.data(),
                                    .mean = &mean,
                                    .deviation = &deviation};
  const auto cut = [&](const DrawnImage& drawn) {
    Values image(6, -99);
    make_reference_backend<double>()->cut_images(stored, {drawn}, image.data());
    for (double& value : image) value = std::nearbyint(1e9 * value) / 1e9;  // 0.2 is rounded
    return image;
  };
  EXPECT_EQ(cut({}), (Values{-2, -1.6, -1.2, -0.8, -0.4, 0}));
  EXPECT_EQ(cut({.flip = true}), (Values{-1.2, -1.6, -2, 0, -0.4, -0.8}));
  EXPECT_EQ(cut({.row = 1}), (Values{-0.8, -0.4, 0, 0, 0, 0}));
  EXPECT_EQ(cut({.row = -1}), (Values{0, 0, 0, -2, -1.6, -1.2}));
  EXPECT_EQ(cut({.column = 1}), (Values{-1.6, -1.2, 0, -0.4, 0, 0}));
  EXPECT_EQ(cut({.column = -1, .flip = true}), (Values{-1.6, -2, 0, -0.4, -0.8, 0}));
  EXPECT_EQ(cut({.row = 4, .column = 4}), Values(6, 0.0));
  EXPECT_EQ(cut({.index = 1}), Values(6, 0.0));
}

TEST(Opening, StatisticsAreMeanAndBiasedVariance) {
  const TinyOpening opening;

  State state(2);
  OwnStatistics got(2);

  make_reference_backend<double>()->opening_convolve(opening.shape, opening.images.data(),
                                                     opening.weights(), state.view(2), got);

  EXPECT_EQ(got.mean, (Values{4, -2}));
  EXPECT_EQ(got.variance, (Values{4, 1}));
}

// (2 - 4) / sqrt(4 + 1e-5) * 3 + 1 < 0 and (6 - 4) / sqrt(4 + 1e-5) * 3 + 1; the second feature is
// +1 / sqrt(1 + 1e-5) and its negative
TEST(Opening, HandNumbersGoToTheHalves) {
  const TinyOpening opening;
  State state(2);

  open(opening, state);

  EXPECT_EQ(state.slot[0][0], 0);
  EXPECT_DOUBLE_EQ(state.slot[0][1], 1 + 6 / std::sqrt(4 + 1e-5));
  EXPECT_DOUBLE_EQ(state.slot[1][0], 1 / std::sqrt(1 + 1e-5));
  EXPECT_EQ(state.slot[1][1], 0);
}

TEST(Opening, OutputIsRoundedOnceToTheGrid) {
  TinyOpening opening;
  opening.shape.grid_bits = 8;
  State state(2);

  open(opening, state);

  EXPECT_EQ(state.slot[0], (Values{0, 4}));
  EXPECT_EQ(state.slot[1], (Values{1, 0}));
}

TEST(Opening, ASingleSlotLeavesTheOtherZero) {
  TinyOpening opening;
  opening.shape.channels = 2;
  opening.shape.features = {.joined = false, .slot = 1};
  opening.shape.grid_bits = 8;
  State state(Values(4, 99.0), Values(4, 99.0));

  open(opening, state);

  EXPECT_EQ(state.slot[0], Values(4, 0.0));
  EXPECT_EQ(state.slot[1], (Values{0, 1, 4, 0}));  // [image, feature]
}

// The tolerance is for central differences of step 1e-6: 1e-16 / 1e-6 from rounding, 1e-12 from the
// third derivative, times the size of the sums.
constexpr double difference_step = 1e-6, difference_tolerance = 1e-8;

TEST(Opening, BackwardMatchesFiniteDifferences) {
  for (const bool joined : {true, false}) {
    OpeningShape shape{.batch = 3,
                       .in_channels = 2,
                       .height = 3,
                       .width = 4,
                       .channels = joined ? 2 : 4,
                       .features = {.joined = joined, .slot = 1},
                       .grid_bits = 0};
    const auto backend = make_reference_backend<double>();
    const std::size_t slot_size = 3 * shape.channels * 12;
    const auto images = uniform_values<double>(3 * 2 * 12, -1, 1, 1);
    Values kernel = uniform_values<double>(4 * 2 * 9, -1, 1, 2);
    Values scale = uniform_values<double>(4, 0.5, 1.5, 3);
    Values shift = uniform_values<double>(4, -0.5, 0.5, 4);
    const OpeningWeights<double> weights{kernel.data(), scale.data(), shift.data()};
    State direction(uniform_values<double>(slot_size, -1, 1, 5),
                    uniform_values<double>(slot_size, -1, 1, 6));
    State state(slot_size);
    OwnStatistics statistics(4);
    const auto loss = [&] {
      backend->opening_convolve(shape, images.data(), weights, state.view(3), statistics);
      backend->opening_normalise(shape, weights, statistics, state.view(3));
      return loss_of(state, direction);
    };
    loss();
    std::vector<ExactSum> grad_kernel(kernel.size()), grad_scale(4), grad_shift(4);
    int overflow = 0;

    backend->opening_backward(
        shape, images.data(), weights, statistics, state.view(3), direction.view(3),
        {grad_kernel.data(), grad_scale.data(), grad_shift.data()}, {&overflow});

    const double step = difference_step, tolerance = difference_tolerance;
    expect_gradient("kernel", loss, kernel, real_values<double>(grad_kernel), step, tolerance);
    expect_gradient("scale", loss, scale, real_values<double>(grad_scale), step, tolerance);
    expect_gradient("shift", loss, shift, real_values<double>(grad_shift), step, tolerance);
  }
}

// One channel of 2 x 4 becomes four of 1 x 2: one zero channel in front, two behind.
TEST(Transition, HandNumbersWithAnOddSurplusBehind) {
  const TransitionShape shape{
      .batch = 1, .in_channels = 1, .out_channels = 4, .height = 2, .width = 4, .grid_bits = 8};
  State in({1, 2, 10, 20, 3, 4, 30, 40}, {0, 0, 0, 0, 0, 0x1p-8, 0, 0x1p-5});
  State out(Values(8, 99.0), Values(8, 99.0));

  make_reference_backend<double>()->transition_forward(shape, in.view(1), out.view(1));

  EXPECT_EQ(out.slot[0], (Values{0, 0, 2.5, 25, 0, 0, 0, 0}));
  EXPECT_EQ(out.slot[1], (Values{0, 0, 0, 0x1p-7, 0, 0, 0, 0}));  // 2^-10 rounds to 0
}

TEST(Transition, BackwardHandNumbers) {
  const TransitionShape shape{
      .batch = 1, .in_channels = 1, .out_channels = 2, .height = 2, .width = 2, .grid_bits = 8};
  State adjoint_out({8, 100}, {-4, 100});  // the channel behind came from nowhere
  State adjoint_in(Values(4, 99.0), Values(4, 99.0));

  make_reference_backend<double>()->transition_backward(shape, adjoint_out.view(1),
                                                        adjoint_in.view(1));

  EXPECT_EQ(adjoint_in.slot[0], Values(4, 2.0));
  EXPECT_EQ(adjoint_in.slot[1], Values(4, -1.0));
}

// <T x, y> = <x, T^T y>
TEST(Transition, BackwardIsTheAdjoint) {
  const TransitionShape shape{
      .batch = 2, .in_channels = 3, .out_channels = 6, .height = 4, .width = 6, .grid_bits = 0};
  const auto backend = make_reference_backend<double>();
  State x(uniform_values<double>(2 * 3 * 24, -1, 1, 1),
          uniform_values<double>(2 * 3 * 24, -1, 1, 2));
  State y(uniform_values<double>(2 * 6 * 6, -1, 1, 3), uniform_values<double>(2 * 6 * 6, -1, 1, 4));
  State forward(y.slot[0].size()), back(x.slot[0].size());

  backend->transition_forward(shape, x.view(2), forward.view(2));
  backend->transition_backward(shape, y.view(2), back.view(2));

  EXPECT_GT(std::abs(loss_of(forward, y)), 0.1);
  EXPECT_NEAR(loss_of(back, x), loss_of(forward, y), 1e-13);
}

/// One image of 1 x 2 pixels, features [P; Q]: P = (1, 3), Q = (5, 5).
struct TinyClosing {
  ClosingShape shape{.batch = 1,
                     .channels = 1,
                     .height = 1,
                     .width = 2,
                     .features = {.joined = true, .slot = 1},
                     .num_classes = 2};
  State state{{1, 3}, {5, 5}};
  Values scale{2, 1}, shift{0.5, 2}, weight{1, 10, 3, -1}, bias{0.5, 0};

  ClosingWeights<double> weights() const {
    return {scale.data(), shift.data(), weight.data(), bias.data()};
  }
};

TEST(Closing, StatisticsAreMeanAndBiasedVariance) {
  TinyClosing closing;
  const auto backend = make_reference_backend<double>();

  const OwnStatistics joined = closing_statistics(*backend, closing.shape, closing.state.view(1));
  closing.shape.features = {.joined = false, .slot = 0};
  const OwnStatistics single = closing_statistics(*backend, closing.shape, closing.state.view(1));

  EXPECT_EQ(joined.mean, (Values{2, 5}));
  EXPECT_EQ(joined.variance, (Values{1, 0}));
  EXPECT_EQ(single.mean, Values{2});
  EXPECT_EQ(single.variance, Values{1});
}

// P: relu(2 * -+r + 0.5) with r = 1 / sqrt(1 + 1e-5) -> (0, 2 r + 0.5), mean r + 0.25; Q: 2.
TEST(Closing, HandNumbers) {
  TinyClosing closing;
  Values logits(2, 99.0);
  const double pooled = 1 / std::sqrt(1 + 1e-5) + 0.25;

  OwnStatistics statistics({2, 5}, {1, 0});
  make_reference_backend<double>()->closing_forward(closing.shape, closing.state.view(1),
                                                    closing.weights(), statistics, logits.data());

  EXPECT_DOUBLE_EQ(logits[0], pooled + 20 + 0.5);
  EXPECT_DOUBLE_EQ(logits[1], 3 * pooled - 2);
}

TEST(Closing, BackwardMatchesFiniteDifferences) {
  for (const bool joined : {true, false}) {
    const ClosingShape shape{.batch = 3,
                             .channels = joined ? 2 : 4,
                             .height = 2,
                             .width = 3,
                             .features = {.joined = joined, .slot = 0},
                             .num_classes = 3};
    const auto backend = make_reference_backend<double>();
    const std::size_t slot_size = 3 * shape.channels * 6;
    State state(uniform_values<double>(slot_size, -1, 1, 1),
                uniform_values<double>(slot_size, -1, 1, 2));
    Values scale = uniform_values<double>(4, 0.5, 1.5, 3);
    Values shift = uniform_values<double>(4, -0.5, 0.5, 4);
    Values weight = uniform_values<double>(12, -1, 1, 5),
           bias = uniform_values<double>(3, -1, 1, 6);
    const auto grad_logits = uniform_values<double>(9, -1, 1, 7);
    const ClosingWeights<double> weights{scale.data(), shift.data(), weight.data(), bias.data()};
    OwnStatistics statistics(4);
    const auto loss = [&] {
      Values logits(9);
      backend->closing_statistics(shape, state.view(3), statistics);
      backend->closing_forward(shape, state.view(3), weights, statistics, logits.data());
      return dot(logits, grad_logits);
    };
    State adjoint(Values(slot_size, 99.0), Values(slot_size, 99.0));
    std::vector<ExactSum> grad_scale(4), grad_shift(4), grad_weight(12), grad_bias(3);
    int overflow = 0;
    loss();

    backend->closing_backward(
        shape, state.view(3), weights, statistics, grad_logits.data(), adjoint.view(3),
        {grad_scale.data(), grad_shift.data(), grad_weight.data(), grad_bias.data()}, {&overflow});

    const double step = difference_step, tolerance = difference_tolerance;
    expect_gradient("scale", loss, scale, real_values<double>(grad_scale), step, tolerance);
    expect_gradient("shift", loss, shift, real_values<double>(grad_shift), step, tolerance);
    expect_gradient("weight", loss, weight, real_values<double>(grad_weight), step, tolerance);
    expect_gradient("bias", loss, bias, real_values<double>(grad_bias), step, tolerance);
    expect_gradient("slot 0", loss, state.slot[0], adjoint.slot[0], step, tolerance);
    if (joined) {
      expect_gradient("slot 1", loss, state.slot[1], adjoint.slot[1], step, tolerance);
    } else {
      EXPECT_EQ(adjoint.slot[1], Values(slot_size, 0.0));  // it is no feature
    }
  }
}

}  // namespace
}  // namespace revode
