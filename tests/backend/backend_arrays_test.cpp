// Loss, running averages, sums and flat arrays of any backend against the reference.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <tuple>
#include <vector>

#include "revode/core/digest.hpp"

#include "backend/backend_under_test.hpp"
#include "support/exact_values.hpp"

namespace revode {
namespace {

TEST_P(AnyBackend, LossEqualsReference) {
  const auto tested = make(2);
  const auto reference = make_reference_backend<float>();
  const LossShape shape{7, 5};
  std::vector<float> logits = random_multiples(35, 0.25, 3, 1);  // ties among the largest
  for (int k = 0; k < 5; ++k) logits[k] = 500;                   // must not overflow
  const std::vector<std::uint8_t> labels = {0, 4, 2, 3, 1, 0, 4};
  const auto of = [&](Backend<float>& backend) {
    std::vector<double> probabilities(35, std::numeric_limits<double>::quiet_NaN());
    LossSums sums{1e9, 1000};  // overwritten
    backend.softmax_cross_entropy(shape, logits.data(), labels.data(), probabilities.data(), &sums);
    std::vector<float> gradient = poison(35);
    backend.softmax_cross_entropy_gradient(shape, probabilities.data(), labels.data(), 20,
                                           gradient.data());
    return std::tuple{sums, probabilities, gradient};
  };

  const auto [sums, probabilities, gradient] = of(*tested);
  const auto [expected_sums, expected_probabilities, expected_gradient] = of(*reference);

  // exp and log in double, of another library perhaps; the gradient is rounded to float.
  EXPECT_NEAR(sums.loss, expected_sums.loss, 1e-12 * expected_sums.loss);
  EXPECT_EQ(sums.num_correct, expected_sums.num_correct);
  EXPECT_LT(relative_error(probabilities, expected_probabilities), 1e-12);
  EXPECT_LT(relative_error(gradient, expected_gradient), 1e-6);
}

TEST_P(AnyBackend, RunningAveragesEqualReferenceBitForBit) {
  const auto tested = make(2);
  const auto reference = make_reference_backend<float>();
  std::vector<double> counts = {1, 20, 7};
  counts.resize(70, 11);  // more than a launch takes
  const auto of = [&](Backend<float>& backend) {
    std::vector<float> mean = random_multiples(6, 1e-6, 1, 1);
    std::vector<float> variance = random_multiples(6, 1e-6, 1, 2);
    std::vector<double> rows_of_means, rows_of_variances;
    for (const float value : random_multiples(420, 1e-6, 1, 3)) rows_of_means.push_back(value);
    for (const float value : random_multiples(420, 1e-6, 1, 4)) rows_of_variances.push_back(value);
    backend.update_running_averages(6, counts, {rows_of_means.data(), rows_of_variances.data()},
                                    mean.data(), variance.data());
    std::vector<double> read_mean(6), read_variance(6);
    backend.read_running_averages(6, mean.data(), variance.data(),
                                  {read_mean.data(), read_variance.data()});
    return std::tuple{mean, variance, read_mean, read_variance};
  };

  EXPECT_EQ(of(*tested), of(*reference));
}

TEST_P(AnyBackend, ComparesArrays) {
  const auto tested = make(2);
  const auto reference = make_reference_backend<float>();
  std::vector<float> values = random_multiples(100'000, 1e-6, 1, 1), expected = values;
  for (const std::size_t i : {0, 255, 256, 99'999}) values[i] += 1;
  values[500] = 0;
  expected[500] = -0.0f;
  const auto of = [&](Backend<float>& backend) {
    Comparison result{.num_values = 5, .num_differing = 1, .squared_error = 2, .squared_norm = 3};
    backend.compare(values.size(), values.data(), expected.data(), &result);
    return result;
  };

  const Comparison got = of(*tested), wanted = of(*reference);

  EXPECT_EQ(got.num_values, 100'005);
  EXPECT_EQ(got.num_differing, 1 + 5);
  // Sums of 100,000 terms of at most 1 in double, in another order.
  EXPECT_NEAR(got.squared_error, wanted.squared_error, 1e-9);
  EXPECT_NEAR(got.squared_norm, wanted.squared_norm, 1e-7);
}

// More arrays than one launch takes, among them empty ones, some without a whole number of words or
// floats, and one of many words a thread.
TEST_P(AnyBackend, DigestsArrays) {
  const auto tested = make(2);
  const std::vector<float> values = random_multiples(300'001, 1e-6, 1, 1);
  const std::span<const std::byte> bytes = std::as_bytes(std::span(values));
  std::vector<std::span<const std::byte>> arrays{bytes, bytes.first(0)};
  for (std::size_t size = 0; size < 17; ++size) arrays.push_back(bytes.subspan(4 * size, size));
  for (const std::size_t size : {2047, 2048, 2049, 8191, 8192, 8200, 65'541, 1'000'003})
    arrays.push_back(bytes.subspan(4, size));
  std::vector<std::uint64_t> expected, digests(arrays.size(), 4711);
  for (const std::span<const std::byte> array : arrays) expected.push_back(digest_of(array));

  tested->digest(arrays, digests.data());
  EXPECT_EQ(digests, expected);
}

TEST_P(AnyBackend, FindsWhatIsNotFinite) {
  const auto tested = make(2);
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    std::vector<float> values = random_multiples(1000, 1e-6, 1, 1);
    values[3] = std::numeric_limits<float>::max();
    int found = 0;
    tested->find_non_finite(values.size(), values.data(), 7, &found);
    EXPECT_EQ(found, 0);
    values.back() = wrong;
    tested->find_non_finite(values.size(), values.data(), 7, &found);
    EXPECT_EQ(found, 7) << wrong;
    tested->find_non_finite(values.size(), values.data(), 9, &found);  // the first stays
    EXPECT_EQ(found, 7);
  }
}

TEST_P(AnyBackend, FinishesSumsInPlace) {
  const auto tested = make(2);
  constexpr auto limit = static_cast<ExactSum>(exact_sum_limit * exact_sum_scale);
  std::vector<ExactSum> sums = exact_sums(random_multiples(5000, 1e-6, 100, 1));
  const std::vector<float> expected = real_values<float>(sums);
  std::vector<ExactSum> both = sums;
  std::int64_t last = 0;
  auto* const values = reinterpret_cast<float*>(both.data());
  tested->finish_sums(sums.size(), both.data(), values, &last);
  EXPECT_EQ(last, 0);
  EXPECT_EQ(std::vector<float>(values, values + sums.size()), expected);

  sums[1] = limit;
  sums[4711] = -limit;
  sums[4999] = limit - 1;
  std::vector<float> apart(sums.size());
  tested->finish_sums(sums.size(), sums.data(), apart.data(), &last);
  EXPECT_EQ(last, 4712);
}

TEST_P(AnyBackend, RegularisesAndStepsAsTheReference) {
  const auto tested = make(2);
  const auto reference = make_reference_backend<float>();
  constexpr std::int64_t num_rows = 6, num_arrays = 6;  // more than go at once on a device
  constexpr std::size_t row_size = 300;
  const auto values = random_multiples(num_rows * row_size, 1e-6, 1, 1);
  const auto before = random_multiples(2 * row_size, 1e-6, 1, 2), after = before;
  for (const bool has_neighbours : {false, true}) {
    const auto of = [&](Backend<float>& backend) {
      std::vector<float> theta = values, gradient = random_multiples(values.size(), 1e-6, 1, 3),
                         velocity = random_multiples(values.size(), 1e-6, 1, 4);
      // Of the rows one array, and of each a second one of one row, which stands alone.
      std::vector<float> gradients_alone = random_multiples(num_arrays * row_size, 1e-6, 1, 5);
      std::vector<RegularizedRows<float>> arrays{
          {.num_rows = num_rows,
           .row_size = row_size,
           .rows_per_block = 2,
           .values = theta.data(),
           .before = has_neighbours ? before.data() : nullptr,
           .after = has_neighbours ? after.data() : nullptr,
           .gradient = gradient.data(),
           .weight_decay = 0.01,
           .smoothness_over_h = 0.5}};
      for (std::size_t i = 1; i < num_arrays; ++i)
        arrays.push_back({.num_rows = 1,
                          .row_size = row_size,
                          .values = before.data(),
                          .gradient = gradients_alone.data() + i * row_size,
                          .weight_decay = 0.01 * static_cast<double>(i)});
      std::vector<RowSum> sums(num_rows + num_arrays - 1);
      backend.regularize(arrays, sums.data());
      gradient.insert(gradient.end(), gradients_alone.begin(), gradients_alone.end());
      backend.sgd_step(theta.size(), {0.1, 0.9, 0.25}, gradient.data(), velocity.data(),
                       theta.data());
      return std::tuple{theta, velocity, gradient, sums};
    };

    const auto [theta, velocity, gradient, sums] = of(*tested);
    const auto [expected_theta, expected_velocity, expected_gradient, expected_sums] =
        of(*reference);

    EXPECT_EQ(bits(gradient), bits(expected_gradient));
    EXPECT_EQ(bits(velocity), bits(expected_velocity));
    EXPECT_EQ(bits(theta), bits(expected_theta));
    // Sums of row_size terms of about 1 in double, in another order.
    for (std::size_t row = 0; row < sums.size(); ++row) {
      EXPECT_NEAR(sums[row].decay, expected_sums[row].decay, 1e-12 * row_size);
      EXPECT_NEAR(sums[row].smoothness, expected_sums[row].smoothness, 1e-12 * row_size);
      EXPECT_NEAR(sums[row].gradient, expected_sums[row].gradient, 1e-12 * row_size);
    }
  }
}

}  // namespace
}  // namespace revode
