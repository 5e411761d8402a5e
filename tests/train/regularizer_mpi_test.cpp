// Weight decay and smoothness in time over every cut of a network, against the formula itself in
// double.
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/train/regularizer.hpp"

#include "support/numbers.hpp"

namespace revode {
namespace {

constexpr double weight_decay = 0.02;
constexpr double smoothness = 0.003;
constexpr double step_size = 0.125;

/// Stages of 2, 1 and 2 blocks: cuts inside stages, at their boundaries, and slices of one block.
Architecture make(const std::string& arch) {
  ArchitectureOptions options;
  options.arch = arch;
  options.blocks = {2, 1, 2};
  options.widths = {2, 2, 4};
  options.step_size = step_size;
  options.image_height = options.image_width = 8;
  options.num_classes = 3;
  return Architecture(options);
}

/// Every cut of `blocks` blocks into `slices` non-empty contiguous slices.
std::vector<std::vector<BlockRange>> all_cuts(int blocks, int slices) {
  std::vector<std::vector<BlockRange>> cuts;
  std::vector<BlockRange> cut;
  const std::function<void(int)> extend = [&](int first) {
    const int left = slices - static_cast<int>(cut.size());
    if (left == 0) {
      if (first == blocks) cuts.push_back(cut);
      return;
    }
    for (int last = first + 1; last <= blocks - left + 1; ++last) {
      cut.push_back({first, last});
      extend(last);
      cut.pop_back();
    }
  };
  extend(0);
  return cuts;
}

/// R(theta) = a/2 sum |W|^2 + s/(2h) sum_j |theta_j - theta_{j-1}|^2, as it is written.
double formula(const Architecture& architecture, const ParameterMap& map,
               const std::vector<double>& values) {
  double squares = 0, differences = 0;
  for (const ParameterEntry* entry : map.entries()) {
    const bool stage = entry->name.starts_with("stage_");
    if (entry->name.ends_with("/kernel") || entry->name == "closing/weight")
      for (std::size_t i = 0; i < entry->size(); ++i)
        squares += values[entry->offset + i] * values[entry->offset + i];
    if (!stage) continue;
    const std::size_t block = architecture.rule().couplings_per_block * entry->row_size();
    for (std::size_t i = block; i < entry->size(); ++i) {
      const double difference = values[entry->offset + i] - values[entry->offset + i - block];
      differences += difference * difference;
    }
  }
  return weight_decay / 2 * squares + smoothness / (2 * step_size) * differences;
}

/// Values and a data gradient for the whole network, and what the regulariser makes of them.
struct Whole {
  explicit Whole(const Architecture& architecture)
      : map(architecture, {0, architecture.num_blocks()}),
        values(uniform_values<float>(map.size(), -1, 1, 1)),
        data_gradient(uniform_values<float>(map.size(), -1, 1, 2)) {}
  ParameterMap map;
  std::vector<float> values, data_gradient;
};

struct Result {
  std::vector<float> gradient;
  double value = 0, squared_norm = 0;
};

Result regularize(const Architecture& architecture, BlockRange range, const ParameterMap& map,
                  const std::vector<float>& values, std::vector<float> gradient,
                  const Communicator& communicator) {
  const Placement placement = Placement::round_robin(communicator.size(), communicator.size());
  const auto backend = make_reference_backend<float>();
  Regularizer regularizer(architecture, range, map, weight_decay, smoothness, *backend,
                          communicator, placement, communicator.rank());
  regularizer.fetch_edges(values.data());
  regularizer.post_edges();
  EXPECT_TRUE(regularizer.wait_for_edges());
  regularizer.add(values.data(), gradient.data());
  const RowSums sums = gather_row_sums(communicator, placement, {regularizer.row_sums()});
  return {.gradient = std::move(gradient),
          .value = regularizer.value(sums),
          .squared_norm = std::accumulate(sums.gradient.begin(), sums.gradient.end(), 0.0)};
}

/// The slice's rows of an array of the whole network.
std::vector<float> rows_of(const ParameterMap& slice, const ParameterMap& whole,
                           const std::vector<float>& array) {
  std::vector<float> rows(slice.size());
  const auto mine = slice.entries(), all = whole.entries();
  for (std::size_t e = 0; e < mine.size(); ++e)
    std::copy_n(array.begin() + static_cast<std::ptrdiff_t>(
                                    all[e]->offset + mine[e]->first_row * mine[e]->row_size()),
                mine[e]->size(), rows.begin() + static_cast<std::ptrdiff_t>(mine[e]->offset));
  return rows;
}

// Ranks send what they own in the order of their slices; what comes back is in the order of all.
TEST(GatherRowSums, PutsTheSlicesInOrderWhoeverOwnsThem) {
  const Communicator world(MPI_COMM_WORLD);
  const int num_slices = 2 * world.size();
  for (const Placement& placement : {Placement::round_robin(num_slices, world.size()), [&] {
                                       std::vector<int> rank_of_slice;  // 0 1 2 2 1 0, say
                                       for (int rank = 0; rank < world.size(); ++rank)
                                         rank_of_slice.push_back(rank);
                                       for (int rank = world.size(); rank-- > 0;)
                                         rank_of_slice.push_back(rank);
                                       return Placement(rank_of_slice);
                                     }()}) {
    std::vector<RowSums> mine;
    for (const int slice : placement.slices_of(world.rank())) {
      const double number = slice;
      mine.push_back({.decay = {number},
                      .smoothness = std::vector<double>(slice % 3, number),
                      .gradient = {number, -number}});
    }

    const RowSums all = gather_row_sums(world, placement, mine);

    RowSums expected;
    for (int slice = 0; slice < num_slices; ++slice) {
      const double number = slice;
      expected.decay.push_back(number);
      expected.smoothness.insert(expected.smoothness.end(), slice % 3, number);
      expected.gradient.insert(expected.gradient.end(), {number, -number});
    }
    EXPECT_EQ(all.decay, expected.decay);
    EXPECT_EQ(all.smoothness, expected.smoothness);
    EXPECT_EQ(all.gradient, expected.gradient);
  }
}

class RegularizerOf : public testing::TestWithParam<std::string> {
 protected:
  Communicator world_{MPI_COMM_WORLD}, self_{MPI_COMM_SELF};
};
INSTANTIATE_TEST_SUITE_P(All, RegularizerOf, testing::ValuesIn(architecture_names()));

TEST_P(RegularizerOf, ValueAndGradientEqualTheFormula) {
  const Architecture architecture = make(GetParam());
  const Whole whole(architecture);
  const Result result = regularize(architecture, {0, architecture.num_blocks()}, whole.map,
                                   whole.values, whole.data_gradient, self_);

  std::vector<double> values(whole.values.begin(), whole.values.end());
  const double expected = formula(architecture, whole.map, values);
  // Sums of squares of floats in double.
  EXPECT_NEAR(result.value, expected, 1e-12 * expected);
  double squared_norm = 0;
  for (const ParameterEntry* entry : whole.map.entries()) {
    for (std::size_t i = entry->offset; i < entry->offset + entry->size(); ++i) {
      // Of a quadratic form, central differences are the derivative for any step.
      const double value = values[i];
      values[i] = value + 1;
      const double above = formula(architecture, whole.map, values);
      values[i] = value - 1;
      const double below = formula(architecture, whole.map, values);
      values[i] = value;
      // A handful of float operations on numbers of about 1.
      EXPECT_NEAR(result.gradient[i], whole.data_gradient[i] + (above - below) / 2, 1e-6)
          << entry->name;
      if (entry->trainable) squared_norm += double{result.gradient[i]} * result.gradient[i];
    }
  }
  EXPECT_NEAR(result.squared_norm, squared_norm, 1e-12 * squared_norm);
}

TEST_P(RegularizerOf, EveryCutOverTheRanksGivesTheBitsOfOneSlice) {
  const Architecture architecture = make(GetParam());
  const Whole whole(architecture);
  const Result expected = regularize(architecture, {0, architecture.num_blocks()}, whole.map,
                                     whole.values, whole.data_gradient, self_);
  const auto cuts = all_cuts(architecture.num_blocks(), world_.size());
  ASSERT_FALSE(cuts.empty());
  for (const std::vector<BlockRange>& cut : cuts) {
    const BlockRange range = cut[world_.rank()];
    SCOPED_TRACE(testing::Message() << "blocks " << range.first << " to " << range.last);
    const ParameterMap map(architecture, range);
    const Result result =
        regularize(architecture, range, map, rows_of(map, whole.map, whole.values),
                   rows_of(map, whole.map, whole.data_gradient), world_);
    EXPECT_EQ(result.value, expected.value);
    EXPECT_EQ(result.squared_norm, expected.squared_norm);
    EXPECT_EQ(num_differing(result.gradient, rows_of(map, whole.map, expected.gradient)), 0u);
  }
}

}  // namespace
}  // namespace revode
