// Couplings of the reference backend, the oracle of the others: numbers worked out by hand, finite
// differences, exact reversal.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "backend/reference/reference_backend.hpp"
#include "support/backend_calls.hpp"
#include "support/exact_values.hpp"
#include "support/numbers.hpp"

namespace revode {
namespace {

using Values = std::vector<double>;

Values ramp(int size) {
  Values values(size);
  for (int i = 0; i < size; ++i) values[i] = i + 1;
  return values;
}

// K = [1 2 3; 4 5 6; 7 8 9], x = [1 2; 3 4], zeros around: the top left is 5*1 + 6*2 + 8*3 + 9*4.
TEST(Convolution, HandNumbersOfOneChannel) {
  const Values kernel = ramp(9), x = ramp(4);
  Values y{100, 0, 0, 0};  // += is to be seen

  reference::convolve(kernel.data(), 1, 1, 2, 2, x.data(), y.data());

  EXPECT_EQ(y, (Values{177, 67, 47, 37}));
}

// One pixel sees the middle taps alone: y_o = sum_i K[o][i][1][1] x_i.
TEST(Convolution, KernelIsStoredOutputChannelFirst) {
  const Values kernel = ramp(2 * 3 * 9), x{1, 10, 100};
  Values y(2, 0.0);

  reference::convolve(kernel.data(), 2, 3, 1, 1, x.data(), y.data());

  EXPECT_EQ(y, (Values{5 + 140 + 2300, 32 + 410 + 5000}));
}

TEST(Convolution, AdjointHandNumbers) {
  const Values kernel = ramp(9), y{1, 0, 0, 0};
  Values x{100, 0, 0, 0};

  reference::convolve_adjoint(kernel.data(), 1, 1, 2, 2, y.data(), x.data());

  EXPECT_EQ(x, (Values{105, 6, 8, 9}));
}

// <K x, y> = <x, K^T y> = <K, gradient of the kernel>
TEST(Convolution, AdjointsSatisfyTheDotProductIdentity) {
  constexpr int out = 3, in = 2, height = 4, width = 5, plane = height * width;
  const auto kernel = uniform_values<double>(out * in * 9, -1, 1, 1);
  const auto x = uniform_values<double>(in * plane, -1, 1, 2);
  const auto y = uniform_values<double>(out * plane, -1, 1, 3);
  Values forward(out * plane), adjoint(in * plane), grad_kernel(kernel.size());

  reference::convolve(kernel.data(), out, in, height, width, x.data(), forward.data());
  reference::convolve_adjoint(kernel.data(), out, in, height, width, y.data(), adjoint.data());
  reference::convolve_kernel_gradient(out, in, height, width, x.data(), y.data(),
                                      grad_kernel.data());

  const double expected = dot(forward, y);
  EXPECT_GT(std::abs(expected), 0.1);
  EXPECT_NEAR(dot(x, adjoint), expected, 1e-13);  // some 1000 products of double rounding
  EXPECT_NEAR(dot(kernel, grad_kernel), expected, 1e-13);
}

TEST(Convolution, KernelGradientHandNumbers) {
  const Values x = ramp(4), y{1, 0, 0, 0};
  Values grad(9, 0.0);
  grad[0] = 100;

  reference::convolve_kernel_gradient(1, 1, 2, 2, x.data(), y.data(), grad.data());

  EXPECT_EQ(grad, (Values{100, 0, 0, 0, 1, 2, 0, 3, 4}));
}

TEST(RoundToGrid, TakesTheNearestMultipleAndTiesToEven) {
  const auto rounded = [](float multiple) {
    return 256 * reference::round_to_grid(multiple / 256, 8);
  };

  EXPECT_EQ(rounded(0.5f), 0);
  EXPECT_EQ(rounded(1.5f), 2);
  EXPECT_EQ(rounded(2.5f), 2);
  EXPECT_EQ(rounded(-1.5f), -2);
  EXPECT_EQ(rounded(-2.5f), -2);
  EXPECT_EQ(rounded(2.5001f), 3);
  EXPECT_EQ(rounded(-0.6f), -1);
  EXPECT_EQ(rounded(7), 7);
}

TEST(RoundToGrid, NegativeZeroBecomesPositive) {
  EXPECT_FALSE(std::signbit(reference::round_to_grid(-0.0f, 16)));
  EXPECT_FALSE(std::signbit(reference::round_to_grid(-1e-9f, 16)));
  EXPECT_FALSE(std::signbit(reference::round_to_grid(-0.0, 8)));
}

TEST(RoundToGrid, WithoutAGridChangesNothing) {
  EXPECT_EQ(reference::round_to_grid(1e-30f, 0), 1e-30f);
  EXPECT_EQ(reference::round_to_grid(0.1f, 0), 0.1f);
}

TEST(Reference, RoundsOperandsToNearestTiesToEven) {
  const auto rounded = [](float value, Precision precision) {
    return reference::round_operand(value, precision);
  };
  const float bf16_step = std::ldexp(1.0f, -7), tf32_step = std::ldexp(1.0f, -10);

  EXPECT_EQ(rounded(1 + bf16_step / 2, Precision::bf16), 1);
  EXPECT_EQ(rounded(1 + 3 * bf16_step / 2, Precision::bf16), 1 + 2 * bf16_step);
  EXPECT_EQ(rounded(-1 - 0.51f * bf16_step, Precision::bf16), -1 - bf16_step);
  EXPECT_EQ(rounded(1 + tf32_step / 2, Precision::tf32), 1);
  EXPECT_EQ(rounded(1 + tf32_step, Precision::tf32), 1 + tf32_step);
  EXPECT_EQ(rounded(0.1f, Precision::fp32), 0.1f);
  EXPECT_TRUE(std::isnan(rounded(std::nanf(""), Precision::bf16)));
  // the largest float is nearer to 2^128
  EXPECT_TRUE(std::isinf(rounded(std::numeric_limits<float>::max(), Precision::bf16)));
}

/// One coupling of one image [channels, 1, width] that changes slot 0 from slot 1.
struct OneCoupling {
  Force force = Force::symmetric;
  int channels = 1, width = 1, grid_bits = 0;
  double gamma = 1, beta = 0, scale = 1;
  Values kernel, bias;

  StateNotes advance(Values& target, Values& other) const {
    SegmentShape shape;
    shape.force = force;
    shape.num_couplings = 1;
    shape.channels = channels;
    shape.height = 1;
    shape.width = width;
    shape.gamma = gamma;
    shape.beta = beta;
    shape.scale = {scale, 1e9};  // that of slot 0 counts
    shape.grid_bits = grid_bits;
    const auto segment = make_reference_backend<double>()->make_segment(shape);
    load_weights(*segment, kernel, bias);
    StateNotes counts;
    segment->advance({0, 1}, {{target.data(), other.data()}, 1}, &counts, nullptr);
    return counts;
  }
};

// K x + b = (2 - 6, 1 - 4) + 3.5 = (-0.5, 0.5); sigma: (0, 0.5); K^T: F = (0.5, 1)
// -10 + 2 * 1 - 0.5 / 4 and -20 + 2 * -2 - 1 / 4
TEST(Coupling, SymmetricHandNumbers) {
  const OneCoupling coupling{.width = 2,
                             .gamma = -1,
                             .beta = 2,
                             .scale = -0.25,
                             .kernel = {0, 0, 0, 1, 2, 3, 0, 0, 0},
                             .bias = {3.5}};
  Values target{10, 20}, other{1, -2};

  coupling.advance(target, other);

  EXPECT_EQ(target, (Values{-8.125, -24.25}));
  EXPECT_EQ(other, (Values{1, -2}));
}

// K - K^T has the taps (1 - 3, 0, 3 - 1) = (-2, 0, 2): (-4, -2) + 3 = (-1, 1); sigma: F = (0, 1)
TEST(Coupling, AntisymmetricHandNumbers) {
  const OneCoupling coupling{.force = Force::antisymmetric,
                             .width = 2,
                             .scale = 0.5,
                             .kernel = {0, 0, 0, 1, 2, 3, 0, 0, 0},
                             .bias = {3}};
  Values target{10, 20}, other{1, -2};

  coupling.advance(target, other);

  EXPECT_EQ(target, (Values{10, 20.5}));
}

// Middle taps [1 5; 2 7]: K - K^T = [0 3; -3 0]; times (1, 2): (6, -3), plus (0, 4): F = (6, 1)
TEST(Coupling, AntisymmetricExchangesChannels) {
  OneCoupling coupling{
      .force = Force::antisymmetric, .channels = 2, .kernel = Values(36, 0.0), .bias = {0, 4}};
  coupling.kernel[4] = 1;
  coupling.kernel[9 + 4] = 5;
  coupling.kernel[18 + 4] = 2;
  coupling.kernel[27 + 4] = 7;
  Values target{0, 0}, other{1, 2};

  coupling.advance(target, other);

  EXPECT_EQ(target, (Values{6, 1}));
}

/// F(x) = x for x > 0, one pixel.
OneCoupling identity_coupling(int grid_bits) {
  return {.grid_bits = grid_bits, .kernel = {0, 0, 0, 0, 1, 0, 0, 0, 0}, .bias = {0}};
}

// Grid 22 is exact below 2^(24 - 22) = 4.
TEST(StateNotes, SumsFromTheLimitOnAreCounted) {
  const OneCoupling coupling = identity_coupling(22);
  const auto count = [&](double target_value, double other_value) {
    Values target{target_value}, other{other_value};
    return coupling.advance(target, other).out_of_range;
  };

  EXPECT_EQ(count(2, 1.75), 0);
  EXPECT_EQ(count(2.25, 1.75), 1);
  EXPECT_EQ(count(-4, 0), 1);
  EXPECT_EQ(count(-3.75, -9), 0);  // the other slot is looked at when it is the target
}

// Leapfrog forms 2 Q - P first: that sum counts by itself.
TEST(StateNotes, TheInnerSumIsCountedToo) {
  OneCoupling coupling = identity_coupling(22);
  coupling.gamma = -1;
  coupling.beta = 2;
  coupling.scale = -1;
  const auto count = [&](double target_value, double other_value) {
    Values target{target_value}, other{other_value};
    return coupling.advance(target, other).out_of_range;
  };

  EXPECT_EQ(count(0, 2.5), 1);   // 5, then 5 - 2.5
  EXPECT_EQ(count(-2, 2.5), 2);  // 7, then 4.5
  EXPECT_EQ(count(2, 2.5), 0);   // 3, then 0.5
}

TEST(StateNotes, IncrementsThatRoundToZeroAreCounted) {
  OneCoupling coupling = identity_coupling(8);
  const auto count = [&](double scale, double other_value) {
    coupling.scale = scale;
    Values target{1}, other{other_value};
    return coupling.advance(target, other).rounded_to_zero;
  };

  EXPECT_EQ(count(0x1p-10, 1), 1);
  EXPECT_EQ(count(-0x1p-10, 1), 1);
  EXPECT_EQ(count(0x1p-9, 1), 1);    // a tie, to even
  EXPECT_EQ(count(0x1.8p-9, 1), 0);  // above the tie
  EXPECT_EQ(count(0x1p-10, -1), 0);  // F = 0: nothing is lost
}

// With a grid and without, of what was written: not of the other slot.
TEST(StateNotes, TheLargestMagnitudeIsNoted) {
  for (const int grid_bits : {0, 16}) {
    const OneCoupling coupling = identity_coupling(grid_bits);
    Values target{-5.5}, other{1.25};
    EXPECT_EQ(coupling.advance(target, other).largest, 4.25f);
    other = {-9};
    EXPECT_EQ(coupling.advance(target, other).largest, 4.25f);
  }
}

TEST(StateNotes, NothingIsCountedWithoutAGrid) {
  OneCoupling coupling = identity_coupling(0);
  coupling.scale = 1e-20;
  Values target{1e30}, other{1};

  const StateNotes counts = coupling.advance(target, other);

  EXPECT_EQ(counts.out_of_range, 0);
  EXPECT_EQ(counts.rounded_to_zero, 0);
}

/// The lines of the three architectures, at h = 0.25.
struct Line {
  const char* name;
  Force force;
  double gamma, beta, scale0, scale1;
};
constexpr Line lines[] = {{"hamiltonian", Force::symmetric, 1, 0, 0.25, -0.25},
                          {"leapfrog", Force::symmetric, -1, 2, -0.0625, -0.0625},
                          {"midpoint", Force::antisymmetric, 1, 0, 0.5, 0.5}};

SegmentShape shape_of(const Line& line, int couplings, int first_target, int grid_bits) {
  SegmentShape shape;
  shape.force = line.force;
  shape.num_couplings = couplings;
  shape.channels = 2;
  shape.height = 3;
  shape.width = 4;
  shape.first_target = first_target;
  shape.gamma = line.gamma;
  shape.beta = line.beta;
  shape.scale = {line.scale0, line.scale1};
  shape.grid_bits = grid_bits;
  return shape;
}

/// Everything a sweep over a segment reads and writes.
template <typename Real>
struct Sweep {
  Sweep(const SegmentShape& shape, int images)
      : batch(images),
        kernel(uniform_values<Real>(shape.num_couplings * shape.kernel_size(), -0.5, 0.5, 1)),
        bias(uniform_values<Real>(shape.num_couplings * shape.channels, -0.3, 0.3, 2)),
        grad_kernel(kernel.size()),
        grad_bias(bias.size()) {
    for (int slot = 0; slot < 2; ++slot) {
      const std::vector<float> values = grid_values(images * shape.image_size(), 1, 3 + slot);
      state[slot].assign(values.begin(), values.end());
      adjoint[slot] = uniform_values<Real>(values.size(), -1, 1, 5 + slot);
    }
  }
  StateView<Real> state_view() { return {{state[0].data(), state[1].data()}, batch}; }
  StateView<Real> adjoint_view() { return {{adjoint[0].data(), adjoint[1].data()}, batch}; }

  int batch;
  void retreat(Segment<Real>& segment, CouplingRange range, const Recording* recording) {
    std::vector<ExactSum> kernel_sums = exact_sums(grad_kernel), bias_sums = exact_sums(grad_bias);
    segment.bind_gradient({kernel_sums.data(), bias_sums.data()});
    segment.retreat(range, state_view(), adjoint_view(), recording, {&overflow});
    grad_kernel = real_values<Real>(kernel_sums);
    grad_bias = real_values<Real>(bias_sums);
  }

  std::vector<Real> kernel, bias, state[2], adjoint[2], grad_kernel, grad_bias;
  int overflow = 0;
  StateNotes counts;
};

template <typename Real>
void expect_same_bits(const Sweep<Real>& a, const Sweep<Real>& b) {
  for (int slot = 0; slot < 2; ++slot) {
    EXPECT_EQ(num_differing(a.state[slot], b.state[slot]), 0u);
    EXPECT_EQ(num_differing(a.adjoint[slot], b.adjoint[slot]), 0u);
  }
  EXPECT_EQ(num_differing(a.grad_kernel, b.grad_kernel), 0u);
  EXPECT_EQ(num_differing(a.grad_bias, b.grad_bias), 0u);
}

class ReferenceSegment : public testing::TestWithParam<Line> {};

INSTANTIATE_TEST_SUITE_P(Lines, ReferenceSegment, testing::ValuesIn(lines),
                         [](const auto& line) { return std::string(line.param.name); });

// loss = <w, state behind>: its derivative with respect to the state in front is what retreat makes
// of w. No ReLU opens or closes within these steps: differences of a piecewise quadratic are then
// right up to rounding, 1e-16 / 1e-6 of a loss of about 10.
TEST_P(ReferenceSegment, RetreatMatchesFiniteDifferences) {
  const auto backend = make_reference_backend<double>();
  for (const int first_target : {0, 1}) {
    const SegmentShape shape = shape_of(GetParam(), 3, first_target, 0);
    Sweep<double> sweep(shape, 2);
    Sweep<double> start = sweep;
    const auto segment = backend->make_segment(shape);
    const auto loss = [&] {
      Sweep<double> moved = start;
      load_weights(*segment, start.kernel, start.bias);
      segment->advance({0, 3}, moved.state_view(), &moved.counts, nullptr);
      return dot(moved.state[0], sweep.adjoint[0]) + dot(moved.state[1], sweep.adjoint[1]);
    };
    load_weights(*segment, start.kernel, start.bias);
    Sweep<double> back = sweep;
    segment->advance({0, 3}, back.state_view(), &back.counts, nullptr);
    back.retreat(*segment, {0, 3}, nullptr);

    constexpr double step = 1e-6, tolerance = 1e-8;
    expect_gradient("slot 0", loss, start.state[0], back.adjoint[0], step, tolerance);
    expect_gradient("slot 1", loss, start.state[1], back.adjoint[1], step, tolerance);
    expect_gradient("kernel", loss, start.kernel, back.grad_kernel, step, tolerance);
    expect_gradient("bias", loss, start.bias, back.grad_bias, step, tolerance);
  }
}

TEST_P(ReferenceSegment, RetreatAddsToTheGradient) {
  const SegmentShape shape = shape_of(GetParam(), 2, 0, 16);
  Sweep<float> once(shape, 2);
  const auto segment = make_reference_backend<float>()->make_segment(shape);
  load_weights(*segment, once.kernel, once.bias);
  segment->advance({0, 2}, once.state_view(), &once.counts, nullptr);
  Sweep<float> twice = once;
  std::fill(twice.grad_bias.begin(), twice.grad_bias.end(), 1000.0f);

  for (Sweep<float>* sweep : {&once, &twice}) sweep->retreat(*segment, {0, 2}, nullptr);

  for (std::size_t i = 0; i < once.grad_bias.size(); ++i)
    EXPECT_NEAR(twice.grad_bias[i] - 1000, once.grad_bias[i], 1e-2);  // 24 float sums near 1000
}

TEST_P(ReferenceSegment, RetreatRestoresEveryBitOnTheGrid) {
  const SegmentShape shape = shape_of(GetParam(), 20, 1, 16);
  Sweep<float> sweep(shape, 2);
  const Sweep<float> before = sweep;
  const auto segment = make_reference_backend<float>()->make_segment(shape);
  load_weights(*segment, sweep.kernel, sweep.bias);

  segment->advance({0, 20}, sweep.state_view(), &sweep.counts, nullptr);
  ASSERT_EQ(sweep.counts.out_of_range, 0);
  for (int slot = 0; slot < 2; ++slot)
    EXPECT_GT(num_differing(sweep.state[slot], before.state[slot]), before.state[slot].size() / 2);
  sweep.retreat(*segment, {0, 20}, nullptr);

  EXPECT_EQ(num_differing(sweep.state[0], before.state[0]), 0u);
  EXPECT_EQ(num_differing(sweep.state[1], before.state[1]), 0u);
}

// The reason for the grid: plain float steps do not come back.
TEST_P(ReferenceSegment, WithoutAGridSomeBitsAreLost) {
  const SegmentShape shape = shape_of(GetParam(), 20, 1, 0);
  Sweep<float> sweep(shape, 2);
  const Sweep<float> before = sweep;
  const auto segment = make_reference_backend<float>()->make_segment(shape);
  load_weights(*segment, sweep.kernel, sweep.bias);

  segment->advance({0, 20}, sweep.state_view(), &sweep.counts, nullptr);
  sweep.retreat(*segment, {0, 20}, nullptr);

  EXPECT_GT(num_differing(sweep.state[0], before.state[0]), 0u);
}

TEST_P(ReferenceSegment, RecordingGivesTheSameBitsAsNone) {
  const SegmentShape shape = shape_of(GetParam(), 5, 0, 16);
  Sweep<float> reversed(shape, 2), stored(shape, 2);
  const auto segment = make_reference_backend<float>()->make_segment(shape);
  load_weights(*segment, reversed.kernel, reversed.bias);
  const auto recording = segment->make_recording(3);

  segment->advance({0, 5}, reversed.state_view(), &reversed.counts, nullptr);
  segment->advance({0, 5}, stored.state_view(), &stored.counts, recording.get());
  expect_same_bits(stored, reversed);
  for (auto& slot : stored.state)  // with a recording, the state behind is of no use
    std::fill(slot.begin(), slot.end(), std::numeric_limits<float>::quiet_NaN());
  reversed.retreat(*segment, {0, 5}, nullptr);
  stored.retreat(*segment, {0, 5}, recording.get());

  expect_same_bits(stored, reversed);
}

TEST_P(ReferenceSegment, RangesChainToTheWhole) {
  const SegmentShape shape = shape_of(GetParam(), 5, 1, 16);
  Sweep<float> whole(shape, 2), parts(shape, 2);
  const auto segment = make_reference_backend<float>()->make_segment(shape);
  load_weights(*segment, whole.kernel, whole.bias);
  const auto retreat = [&](CouplingRange range, Sweep<float>& sweep) {
    sweep.retreat(*segment, range, nullptr);
  };

  segment->advance({0, 5}, whole.state_view(), &whole.counts, nullptr);
  segment->advance({0, 2}, parts.state_view(), &parts.counts, nullptr);
  segment->advance({2, 5}, parts.state_view(), &parts.counts, nullptr);
  retreat({0, 5}, whole);
  retreat({2, 5}, parts);
  retreat({0, 2}, parts);

  expect_same_bits(parts, whole);
}

}  // namespace
}  // namespace revode
