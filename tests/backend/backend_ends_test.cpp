// Opening, transition and closing of any backend against the reference. What is overwritten is
// handed in full of NaN.
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "backend/backend_under_test.hpp"
#include "support/backend_calls.hpp"
#include "support/exact_values.hpp"

namespace revode {
namespace {

/// A state (or an adjoint) with its memory.
struct State {
  State(int batch_in, std::size_t size, std::vector<float> (*make)(std::size_t))
      : slot{make(size), make(size)}, batch(batch_in) {}
  State(int batch_in, std::size_t size, std::uint64_t stream)
      : slot{random_multiples(size, 1e-6, 1, stream), random_multiples(size, 1e-6, 1, stream + 1)},
        batch(batch_in) {}
  StateView<float> view() { return {{slot[0].data(), slot[1].data()}, batch}; }

  std::vector<float> slot[2];
  int batch;
};

std::vector<FeatureMap> feature_maps() { return {{true, 1}, {false, 0}, {false, 1}}; }

void expect_close(const OwnStatistics& got, const OwnStatistics& expected) {
  EXPECT_LT(relative_error(got.mean, expected.mean), sum_tolerance);
  EXPECT_LT(relative_error(got.variance, expected.variance), sum_tolerance);
}

std::vector<OpeningShape> opening_shapes() {
  std::vector<OpeningShape> shapes;
  for (const FeatureMap& features : feature_maps()) {
    shapes.push_back({3, 3, 32, 32, 16, features, 16});
    shapes.push_back({19, 1, 5, 7, 3, features, 0});
    shapes.push_back({2, 2, 1, 1, 4, features, 8});
    shapes.push_back({2, 4, 3, 40, 5, features, 16});
    shapes.push_back({2, 19, 4, 3, 5, features, 16});     // more input channels than a launch takes
    shapes.push_back({140, 1, 31, 31, 1, features, 16});  // more pixels than blocks share evenly
  }
  return shapes;
}

struct Opening {
  explicit Opening(const OpeningShape& shape)
      : num_features(shape.features.num_features(shape.channels)),
        state_size(std::size_t{1} * shape.batch * shape.channels * shape.height * shape.width),
        images(random_multiples(
            std::size_t{1} * shape.batch * shape.in_channels * shape.height * shape.width, 1e-6, 2,
            1)),
        kernel(random_multiples(std::size_t{9} * num_features * shape.in_channels, 1e-6, 0.3, 2)),
        scale(random_multiples(num_features, 1e-6, 2, 3)),
        shift(random_multiples(num_features, 1e-6, 0.5, 4)) {}
  OpeningWeights<float> weights() const { return {kernel.data(), scale.data(), shift.data()}; }

  int num_features;
  std::size_t state_size;
  std::vector<float> images, kernel, scale, shift;
};

TEST_P(AnyBackend, OpeningEqualsReference) {
  const auto tested = make(2);
  const auto reference = make_reference_backend<float>();
  for (const OpeningShape& shape : opening_shapes()) {
    SCOPED_TRACE(fmt::format("{} x [{}, {}, {}], joined {}", shape.batch, shape.in_channels,
                             shape.height, shape.width, shape.features.joined));
    const Opening opening(shape);
    const float* images = opening.images.data();
    State got(shape.batch, opening.state_size, poison);
    State expected(shape.batch, opening.state_size, poison);
    OwnStatistics got_statistics(opening.num_features), statistics(opening.num_features);
    tested->opening_convolve(shape, images, opening.weights(), got.view(), got_statistics);
    reference->opening_convolve(shape, images, opening.weights(), expected.view(), statistics);
    expect_close(got_statistics, statistics);

    // The same statistics: outputs differ by the order of the sums, at most one step of the grid.
    tested->opening_normalise(shape, opening.weights(), statistics, got.view());
    reference->opening_normalise(shape, opening.weights(), statistics, expected.view());
    const float step = shape.grid_bits > 0 ? std::ldexp(1.0f, -shape.grid_bits) : 0;
    for (int slot = 0; slot < 2; ++slot)
      for (std::size_t k = 0; k < opening.state_size; ++k)
        ASSERT_NEAR(got.slot[slot][k], expected.slot[slot][k], 1e-5 + step) << slot << " " << k;

    State adjoint(shape.batch, opening.state_size, std::uint64_t{5});
    const auto gradient_of = [&](Backend<float>& backend) {
      constexpr ExactSum half = ExactSum{1} << 39;  // += is to be seen
      std::vector<ExactSum> kernel(opening.kernel.size(), half), scale(opening.num_features, half),
          shift = scale;
      int overflow = 0;
      State state(shape.batch, opening.state_size, poison);
      backend.opening_backward(shape, images, opening.weights(), statistics, state.view(),
                               adjoint.view(), {kernel.data(), scale.data(), shift.data()},
                               {&overflow});
      return std::vector{real_values<float>(kernel), real_values<float>(scale),
                         real_values<float>(shift)};
    };
    const auto got_gradient = gradient_of(*tested), expected_gradient = gradient_of(*reference);
    for (int part = 0; part < 3; ++part)
      EXPECT_LT(relative_error(got_gradient[part], expected_gradient[part]), sum_tolerance) << part;
  }
}

TEST_P(AnyBackend, OpeningIsOnTheGridWithoutNegativeZeros) {
  const auto tested = make(1);
  const OpeningShape shape = opening_shapes()[0];
  const Opening opening(shape);
  const float* images = opening.images.data();
  State state(shape.batch, opening.state_size, poison);

  OwnStatistics statistics(opening.num_features);
  tested->opening_convolve(shape, images, opening.weights(), state.view(), statistics);
  tested->opening_normalise(shape, opening.weights(), statistics, state.view());

  for (const std::vector<float>& slot : state.slot) {
    for (const float value : slot) {
      ASSERT_EQ(value * 65536, std::nearbyint(value * 65536));
      ASSERT_FALSE(std::signbit(value));
    }
  }
}

TEST_P(AnyBackend, TransitionEqualsReferenceBitForBit) {
  const auto tested = make(2);
  const auto reference = make_reference_backend<float>();
  for (const TransitionShape& shape :
       {TransitionShape{3, 16, 32, 32, 32, 16}, TransitionShape{2, 3, 6, 2, 6, 0},
        TransitionShape{5, 4, 4, 6, 2, 8}, TransitionShape{1, 5, 8, 10, 44, 16}}) {
    SCOPED_TRACE(fmt::format("{} -> {} x {} x {}", shape.in_channels, shape.out_channels,
                             shape.height, shape.width));
    const std::size_t plane = std::size_t{1} * shape.height * shape.width;
    const std::size_t in_size = shape.batch * shape.in_channels * plane;
    const std::size_t out_size = shape.batch * shape.out_channels * plane / 4;
    State in(shape.batch, in_size, std::uint64_t{1});
    State out(shape.batch, out_size, poison), expected_out(shape.batch, out_size, poison);

    tested->transition_forward(shape, in.view(), out.view());
    reference->transition_forward(shape, in.view(), expected_out.view());
    State adjoint(shape.batch, in_size, poison), expected_adjoint(shape.batch, in_size, poison);
    tested->transition_backward(shape, out.view(), adjoint.view());
    reference->transition_backward(shape, expected_out.view(), expected_adjoint.view());

    for (int slot = 0; slot < 2; ++slot) {
      EXPECT_EQ(bits(out.slot[slot]), bits(expected_out.slot[slot]));
      EXPECT_EQ(bits(adjoint.slot[slot]), bits(expected_adjoint.slot[slot]));
    }
  }
}

std::vector<ClosingShape> closing_shapes() {
  std::vector<ClosingShape> shapes;
  for (const FeatureMap& features : feature_maps()) {
    shapes.push_back({3, 56, 8, 8, features, 10});
    shapes.push_back({19, 3, 3, 5, features, 7});
    shapes.push_back({2, 5, 1, 1, features, 100});
    shapes.push_back({70, 2, 8, 9, features, 3});
  }
  return shapes;
}

struct Closing {
  explicit Closing(const ClosingShape& shape)
      : num_features(shape.features.num_features(shape.channels)),
        state_size(std::size_t{1} * shape.batch * shape.channels * shape.height * shape.width),
        scale(random_multiples(num_features, 1e-6, 2, 1)),
        shift(random_multiples(num_features, 1e-6, 0.5, 2)),
        weight(random_multiples(std::size_t{1} * num_features * shape.num_classes, 1e-6, 0.3, 3)),
        bias(random_multiples(shape.num_classes, 1e-6, 0.3, 4)),
        grad_logits(random_multiples(std::size_t{1} * shape.batch * shape.num_classes, 1e-6, 1, 5)),
        state(shape.batch, state_size, std::uint64_t{6}) {}
  ClosingWeights<float> weights() const {
    return {scale.data(), shift.data(), weight.data(), bias.data()};
  }

  int num_features;
  std::size_t state_size;
  std::vector<float> scale, shift, weight, bias, grad_logits;
  State state;
};

/// Adjoint of both slots, then the gradients of scale, shift, weight and bias.
std::vector<std::vector<float>> closing_backward(Backend<float>& backend, const ClosingShape& shape,
                                                 Closing& closing, NormStatistics statistics) {
  State adjoint(shape.batch, closing.state_size, poison);
  std::vector<std::vector<ExactSum>> sums;
  for (const auto& array : {closing.scale, closing.shift, closing.weight, closing.bias})
    sums.emplace_back(array.size(), ExactSum{1} << 39);  // += is to be seen
  int overflow = 0;
  backend.closing_backward(shape, closing.state.view(), closing.weights(), statistics,
                           closing.grad_logits.data(), adjoint.view(),
                           {sums[0].data(), sums[1].data(), sums[2].data(), sums[3].data()},
                           {&overflow});
  std::vector<std::vector<float>> result = {adjoint.slot[0], adjoint.slot[1]};
  for (const auto& array : sums) result.push_back(real_values<float>(array));
  return result;
}

TEST_P(AnyBackend, ClosingEqualsReference) {
  const auto tested = make(2);
  const auto reference = make_reference_backend<float>();
  for (const ClosingShape& shape : closing_shapes()) {
    SCOPED_TRACE(fmt::format("{} x [{}, {}, {}], joined {}", shape.batch, shape.channels,
                             shape.height, shape.width, shape.features.joined));
    Closing closing(shape);
    const auto view = closing.state.view();
    OwnStatistics statistics = closing_statistics(*reference, shape, view);

    expect_close(closing_statistics(*tested, shape, view), statistics);

    std::vector<float> logits = poison(closing.grad_logits.size()), expected_logits = logits;
    tested->closing_forward(shape, view, closing.weights(), statistics, logits.data());
    reference->closing_forward(shape, view, closing.weights(), statistics, expected_logits.data());
    EXPECT_LT(relative_error(logits, expected_logits), sum_tolerance);

    const auto got = closing_backward(*tested, shape, closing, statistics);
    const auto expected = closing_backward(*reference, shape, closing, statistics);
    for (std::size_t part = 0; part < got.size(); ++part)
      EXPECT_LT(relative_error(got[part], expected[part]), sum_tolerance) << part;
  }
}

TEST_P(AnyBackend, EndLayersDoNotDependOnTheNumberOfThreads) {
  const OpeningShape opening_shape{19, 3, 5, 7, 3, {true, 1}, 16};
  const ClosingShape closing_shape{19, 3, 3, 5, {false, 1}, 7};
  const Opening opening(opening_shape);
  Closing closing(closing_shape);
  std::vector<std::vector<float>> results;
  std::vector<OwnStatistics> statistics;
  for (const int num_threads : {1, 2, 3}) {
    const auto tested = make(num_threads);
    State adjoint(opening_shape.batch, opening.state_size, std::uint64_t{5});
    State state(opening_shape.batch, opening.state_size, poison);
    OwnStatistics opened(opening.num_features);
    tested->opening_convolve(opening_shape, opening.images.data(), opening.weights(), state.view(),
                             opened);
    OwnStatistics closed = closing_statistics(*tested, closing_shape, closing.state.view());
    statistics.insert(statistics.end(), {opened, closed});

    std::vector<ExactSum> sums(opening.kernel.size() + 2 * opening.scale.size());
    ExactSum* grad_scale = sums.data() + opening.kernel.size();
    int overflow = 0;
    tested->opening_backward(
        opening_shape, opening.images.data(), opening.weights(), opened, state.view(),
        adjoint.view(), {sums.data(), grad_scale, grad_scale + opening.scale.size()}, {&overflow});
    std::vector<float> all = real_values<float>(sums);
    for (const auto& part : closing_backward(*tested, closing_shape, closing, closed))
      all.insert(all.end(), part.begin(), part.end());
    results.push_back(all);
  }

  for (const int run : {1, 2}) {
    EXPECT_EQ(bits(results[run]), bits(results[0]));
    for (const int layer : {0, 1}) {
      EXPECT_EQ(statistics[2 * run + layer].mean, statistics[layer].mean);
      EXPECT_EQ(statistics[2 * run + layer].variance, statistics[layer].variance);
    }
  }
}

}  // namespace
}  // namespace revode
