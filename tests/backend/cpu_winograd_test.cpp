// The Winograd form of the cpu backend's segments: where it is chosen, how far its sums are off,
// and that its rounding does no harm to reversal.
#include <algorithm>
#include <array>

#include "backend/backend_sweep.hpp"
#include "backend/cpu_backend_test.hpp"
#include "support/backend_calls.hpp"

namespace revode {
namespace {

/// One antisymmetric coupling from target 0 with s = 1 and no bias, off the grid: the new target is
/// relu((K - K^T) x), a bare convolution but for the ReLU, which makes no error larger.
SegmentShape convolution_shape(const Size& size) {
  SegmentShape shape;
  shape.force = Force::antisymmetric;
  shape.num_couplings = 1;
  shape.channels = size.channels;
  shape.height = size.height;
  shape.width = size.width;
  shape.scale = {1, 1};
  return shape;
}

/// relu((K - K^T) x) by `backend`; x in slot 1.
template <typename Real>
std::vector<Real> convolution(Backend<Real>& backend, const SegmentShape& shape,
                              const std::vector<float>& kernel, const std::vector<float>& x) {
  const auto segment = backend.make_segment(shape);
  const std::vector<Real> weights(kernel.begin(), kernel.end()), bias(shape.channels);
  load_weights(*segment, weights, bias);
  std::vector<Real> target(x.size()), other(x.begin(), x.end());
  segment->advance({0, 1},
                   {{target.data(), other.data()}, static_cast<int>(x.size() / shape.image_size())},
                   nullptr, nullptr);
  return target;
}

double largest(const std::vector<float>& values) {
  double result = 0;
  for (const float value : values) result = std::max(result, std::abs(double{value}));
  return result;
}

double root_mean_square(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * value;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

/// Winograd's sums are off by c + 32 roundings of 2^-24 at most, each of a product as large as the
/// transforms let it grow (winograd_transforms-inl.hpp): 48^2 |k| |x| at worst, and where signs are
/// random the root of the sum of squares over the terms of an output,
///   sum over i of A_ij^2 |G_i|^2 |B_i|^2 <= 94.4, so that 94.4 |k| |x| both ways, in the mean.
/// The roundings themselves add up like the root of their number then.
void expect_within_bounds(const SegmentShape& shape, const std::vector<float>& kernel,
                          const std::vector<float>& x) {
  const std::vector<float> got = convolution(*make_cpu_backend(2), shape, kernel, x);
  const std::vector<double> expected =
      convolution(*make_reference_backend<double>(), shape, kernel, x);

  double worst = 0, squares = 0;
  for (std::size_t k = 0; k < got.size(); ++k) {
    const double error = got[k] - expected[k];
    worst = std::max(worst, std::abs(error));
    squares += error * error;
  }
  // of K - K^T: twice the weights at most, the root of two in the mean
  const double c = shape.channels, rounding = std::ldexp(1.0, -24);
  EXPECT_LE(worst, (c + 32) * rounding * c * 48 * 48 * 2 * largest(kernel) * largest(x));
  EXPECT_LE(std::sqrt(squares / static_cast<double>(got.size())),
            std::sqrt(c + 32) * rounding * std::sqrt(c) * 94.4 * std::sqrt(2.0) *
                root_mean_square(kernel) * root_mean_square(x));
}

TEST_P(CpuBackend, WinogradIsWithinItsErrorBounds) {
  for (const Size& size : {Size{8, 4, 4, 3}, Size{16, 32, 32, 1}, Size{20, 7, 9, 2},
                           Size{56, 8, 8, 2}, Size{112, 5, 6, 1}}) {
    const SegmentShape shape = convolution_shape(size);
    SCOPED_TRACE(describe(shape, dynamics[2], size.batch));
    const auto kernel = random_multiples(shape.kernel_size(), 1e-6, 0.2, 1);
    const auto x = random_multiples(size.batch * shape.image_size(), 1e-6, 1, 2);
    expect_within_bounds(shape, kernel, x);

    // weights and states of extreme size, and states far from zero: their mean cancels in B^T x
    std::vector<float> large_kernel = kernel, tiny_x = x, biased_x = x;
    for (float& weight : large_kernel) weight *= 1e4f;
    for (float& value : tiny_x) value *= 1e-6f;
    for (float& value : biased_x) value += 100;
    expect_within_bounds(shape, large_kernel, x);
    expect_within_bounds(shape, kernel, tiny_x);
    expect_within_bounds(shape, kernel, biased_x);
  }
}

TEST_P(CpuBackend, WinogradKeepsImagesAndEdgesApart) {
  // whatever else is in the batch: a zero image stays exactly zero where F(0) = 0
  const auto cpu = make_cpu_backend(1);
  for (const Size& size : {Size{16, 5, 7, 3}, Size{24, 4, 4, 3}, Size{16, 3, 3, 3}}) {
    const SegmentShape shape = convolution_shape(size);
    const auto kernel = random_multiples(shape.kernel_size(), 1e-6, 0.2, 1);
    auto x = random_multiples(size.batch * shape.image_size(), 1e-6, 1000, 2);
    std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(shape.image_size()), shape.image_size(),
                0.0f);

    const std::vector<float> got = convolution(*cpu, shape, kernel, x);

    for (std::size_t k = 0; k < shape.image_size(); ++k)
      EXPECT_EQ(got[shape.image_size() + k], 0) << k;
  }
}

TEST_P(CpuBackend, FormDependsOnChannelsAndTheShareOfTilesInUse) {
  const auto cpu = make_cpu_backend(1);
  const std::string vectors = GetParam() == HWY_SCALAR ? "direct" : "winograd F(4x4,3x3)";
  const auto form = [&](const Size& size) {
    return cpu->make_segment(make_shape(size, dynamics[0], 1, 16))->description();
  };

  EXPECT_EQ(form({16, 32, 32, 1}), vectors);
  EXPECT_EQ(form({56, 8, 8, 1}), vectors);
  EXPECT_EQ(form({8, 3, 3, 1}), vectors);
  EXPECT_EQ(form({7, 32, 32, 1}), "direct");
  EXPECT_EQ(form({64, 2, 2, 1}), "direct");
}

TEST_P(CpuBackend, RetreatRestoresEveryBitAcross1200LayersOfWinograd) {
  const auto cpu = make_cpu_backend(2);
  Dynamics line = dynamics[0];
  line.scale0 = 1.0 / 256;
  line.scale1 = -1.0 / 256;
  SegmentShape shape = make_shape({16, 4, 4, 2}, line, 1200, 16);
  Sweep sweep = make_sweep(shape, 2);
  const Sweep before = sweep;
  const auto segment = load(*cpu, shape, sweep);

  advance(*segment, all(shape), sweep);
  ASSERT_EQ(sweep.counts.out_of_range, 0);
  retreat(*segment, all(shape), sweep);

  EXPECT_EQ(bits(sweep.state[0]), bits(before.state[0]));
  EXPECT_EQ(bits(sweep.state[1]), bits(before.state[1]));
}

TEST_P(CpuBackend, OneWholeStepWithLargeWeightsIsRestored) {
  const auto cpu = make_cpu_backend(2);
  for (Dynamics line : dynamics) {
    line.scale0 = line.scale1 = 1;
    SegmentShape shape = make_shape({32, 8, 8, 3}, line, 1, 16);
    Sweep sweep = make_sweep(shape, 3);
    for (float& weight : sweep.kernel) weight *= 4;
    const Sweep before = sweep;
    const auto segment = load(*cpu, shape, sweep);

    advance(*segment, all(shape), sweep);
    ASSERT_EQ(sweep.counts.out_of_range, 0);
    retreat(*segment, all(shape), sweep);

    EXPECT_EQ(bits(sweep.state[0]), bits(before.state[0]));
    EXPECT_EQ(bits(sweep.state[1]), bits(before.state[1]));
  }
}

}  // namespace
}  // namespace revode
