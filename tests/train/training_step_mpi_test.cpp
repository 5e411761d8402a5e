// Steps of training over the ranks against the same steps of one rank, clipping, and what is said
// of values that are not finite.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "revode/train/data_feed.hpp"
#include "revode/train/replicas.hpp"

#include "support/device_messages.hpp"
#include "support/error_text.hpp"
#include "support/plain_images.hpp"
#include "support/test_backends.hpp"
#include "train/small_network.hpp"

namespace revode {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class TrainingStepOnce : public testing::Test {
 protected:
  /// The rank that holds a row of a stage's arrays; the same on every rank.
  int holder(const ParameterEntry& entry, std::int64_t row) const {
    const bool mine = row >= entry.first_row && row < entry.first_row + entry.num_rows;
    const auto all = world_.all_gather(std::int64_t{mine});
    return static_cast<int>(std::find(all.begin(), all.end(), 1) - all.begin());
  }
  std::string explanation(SmallNetwork& small, const MiniBatchSource& source,
                          const StepReport& report) {
    return error_text(ExitStatus::failure,
                      [&] { small.training.require_finite(source, report, "step 7 (epoch 0)"); });
  }

  Communicator world_{MPI_COMM_WORLD}, self_{MPI_COMM_SELF};
};

class TrainingStepOf : public TrainingStepOnce,
                       public testing::WithParamInterface<std::tuple<std::string, std::string>> {};
INSTANTIATE_TEST_SUITE_P(All, TrainingStepOf,
                         testing::Combine(testing::ValuesIn(architecture_names()),
                                          testing::ValuesIn(schedule_names())),
                         [](const auto& of) {
                           return std::get<0>(of.param) + "_" + std::get<1>(of.param);
                         });

/// A device in host memory takes long: each architecture has a schedule of its own there, or each
/// of them with REVODE_ALL_CASES.
std::vector<std::tuple<std::string, std::string>> device_cases() {
  const std::vector<std::string> schedules = schedule_names();
  std::vector<std::tuple<std::string, std::string>> cases;
  for (std::size_t turn = 0; const std::string& arch : architecture_names()) {
    if (std::getenv("REVODE_ALL_CASES") != nullptr) {
      for (const std::string& schedule : schedules) cases.emplace_back(arch, schedule);
    } else {
      cases.emplace_back(arch, schedules[turn++ % schedules.size()]);
    }
  }
  return cases;
}

class DeviceStepOf : public TrainingStepOf {};
INSTANTIATE_TEST_SUITE_P(All, DeviceStepOf, testing::ValuesIn(device_cases()), [](const auto& of) {
  return std::get<0>(of.param) + "_" + std::get<1>(of.param);
});

TEST_P(TrainingStepOf, SeveralStepsOverTheRanksEqualThoseOfOneRank) {
  Config config = small_config(std::get<0>(GetParam()));
  config.schedule = std::get<1>(GetParam());
  SmallNetwork spread(config, world_);
  config.threads = 1;
  config.schedule = "gpipe";
  SmallNetwork alone(config, self_);
  const TestBatch<float> batch(alone.network.architecture(), {3, 3, 2});
  const MiniBatchSource source = source_of(batch);
  double first_loss = 0;
  for (int step = 0; step < 4; ++step) {
    const StepReport got = spread.training.compute_gradient(source);
    const StepReport expected = alone.training.compute_gradient(source);
    EXPECT_EQ(got.loss, expected.loss);
    EXPECT_EQ(got.regularization, expected.regularization);
    EXPECT_EQ(got.gradient_norm, expected.gradient_norm);
    EXPECT_EQ(got.num_correct, expected.num_correct);
    EXPECT_EQ(got.num_samples, 8);
    EXPECT_EQ(got.range.rounded_to_zero, expected.range.rounded_to_zero);
    EXPECT_FALSE(got.stop_requested);
    if (step == 0) first_loss = got.loss;
    if (step == 3) {
      EXPECT_LT(got.loss, first_loss);  // something was learnt
    }
    spread.training.update(0.1, got);
    alone.training.update(0.1, expected);
    const ParameterMap &slice = spread.share().map(), &whole = alone.share().map();
    EXPECT_EQ(num_differing_rows(slice, spread.share().gradient().read_values(), whole,
                                 alone.share().gradient().read_values()),
              0u);
    EXPECT_EQ(num_differing_rows(slice, spread.share().values().read(), whole,
                                 alone.share().values().read()),
              0u);
    EXPECT_EQ(num_differing_rows(slice, spread.share().velocity().read(), whole,
                                 alone.share().velocity().read()),
              0u);
  }
}

/// Sizes of micro-batches, at least one a replica; uneven where that leaves room.
std::vector<int> sizes_for(int num_replicas) {
  return num_replicas > 3 ? std::vector{2, 2, 2, 2} : std::vector{3, 3, 2};
}

/// What one rank trains with, if not with the backend that the configuration names.
struct BackendOfOneRank {
  std::string name;
  std::function<std::unique_ptr<Backend<float>>()> make;
};

/// How training goes on one rank: three steps on the same mini-batch.
struct TrainingOfOneRank {
  struct Step {
    StepReport report;
    std::vector<float> values, velocity;  ///< of all parameters, after the step
  };
  ParameterMap map;
  std::vector<Step> steps;
};

/// Trained once for all that ask: neither the schedule nor whether activations are stored plays a
/// part.
const TrainingOfOneRank& training_of_one_rank(Config config, const std::vector<int>& sizes,
                                              const BackendOfOneRank& backend) {
  static std::map<std::string, TrainingOfOneRank> known;
  const std::string key = fmt::format(
      "{} {} {}", config.arch, backend.make ? backend.name : config.backend, fmt::join(sizes, ","));
  if (const auto found = known.find(key); found != known.end()) return found->second;
  config.schedule = "gpipe";
  const Communicator self(MPI_COMM_SELF);
  SmallNetwork alone(config, self, Placement::round_robin(1, 1),
                     backend.make ? backend.make() : nullptr);
  const TestBatch<float> batch(alone.network.architecture(), sizes);
  const MiniBatchSource source = source_of(batch);
  TrainingOfOneRank training{.map = alone.share().map(), .steps = {}};
  for (int step = 0; step < 3; ++step) {
    const StepReport report = alone.training.compute_gradient(source);
    alone.training.update(0.1, report);
    const auto values = alone.share().values().read(), velocity = alone.share().velocity().read();
    training.steps.push_back(
        {report, {values.begin(), values.end()}, {velocity.begin(), velocity.end()}});
  }
  return known.emplace(key, std::move(training)).first->second;
}

/// The same steps over the ranks: the same bits.
void expect_training_of_one_rank(SmallNetwork& spread, const Config& config,
                                 const BackendOfOneRank& backend = {}) {
  const std::vector<int> sizes = sizes_for(spread.grid.num_replicas());
  const TrainingOfOneRank& alone = training_of_one_rank(config, sizes, backend);
  const TestBatch<float> batch(spread.network.architecture(), sizes);
  const MiniBatchSource source = source_of(batch);
  for (const auto& [expected, values, velocity] : alone.steps) {
    const StepReport got = spread.training.compute_gradient(source);
    EXPECT_EQ(got.loss, expected.loss);
    EXPECT_EQ(got.regularization, expected.regularization);
    EXPECT_EQ(got.gradient_norm, expected.gradient_norm);
    EXPECT_EQ(got.range.rounded_to_zero, expected.range.rounded_to_zero);
    spread.training.update(0.1, got);
    for (const auto& share : spread.network.shares()) {
      EXPECT_EQ(num_differing_rows(share->map(), share->values().read(), alone.map, values), 0u);
      EXPECT_EQ(num_differing_rows(share->map(), share->velocity().read(), alone.map, velocity),
                0u);
    }
  }
}

// A rank that owns slices 0 and 2, say: sums over rows are in the order of the slices, not of the
// ranks.
TEST_F(TrainingStepOnce, SeveralSlicesARankEqualOneRankBitForBit) {
  Config config = small_config();
  config.schedule = "gpipe";
  const int num_slices = std::min(2 * world_.size(), 4);
  const Placement ring = Placement::round_robin(num_slices, world_.size());
  SmallNetwork spread(config, world_, ring);
  ASSERT_EQ(spread.network.shares().size(), ring.slices_of(world_.rank()).size());

  expect_training_of_one_rank(spread, config);
}

TEST_P(TrainingStepOf, ReplicasEqualOneRankBitForBit) {
  Config config = small_config(std::get<0>(GetParam()));
  config.schedule = std::get<1>(GetParam());
  for (int time_ranks = 1; time_ranks < world_.size(); time_ranks *= 2) {
    for (const bool deferred : {false, true}) {
      SCOPED_TRACE(fmt::format("{} time ranks{}", time_ranks, deferred ? ", deferred" : ""));
      if (deferred) config.backend = "reference";
      SmallNetwork spread(config, world_, Placement::round_robin(time_ranks, time_ranks),
                          deferred ? std::make_unique<DeferredBackend<float>>() : nullptr);

      expect_training_of_one_rank(spread, config);
      require_equal_replicas(spread.network);
    }
  }
}

// Places go to ranks 0, 3, 1, 2 then.
TEST_F(TrainingStepOnce, RanksOfSeveralHostsEqualOneRankBitForBit) {
  if (world_.size() != 4) GTEST_SKIP() << "needs four ranks";
  for (const int time_ranks : {2, 4}) {
    SCOPED_TRACE(fmt::format("{} time ranks", time_ranks));
    SmallNetwork spread(small_config(), world_, Placement::round_robin(time_ranks, time_ranks),
                        nullptr, {"a", "b", "b", "a"});
    ASSERT_EQ(spread.grid.order(), (RankOrder{0, 3, 1, 2}));

    expect_training_of_one_rank(spread, small_config());
    require_equal_replicas(spread.network);
  }
}

TEST_F(TrainingStepOnce, AReplicaThatDiffersIsFoundAndNamed) {
  if (world_.size() == 1) GTEST_SKIP() << "one rank has no replicas";
  SmallNetwork small(small_config(), world_, Placement::round_robin(1, 1));
  small.share().velocity();
  require_equal_replicas(small.network);
  const ParameterEntry& bias = small.share().map().closing_bias;
  if (world_.rank() == 1) {
    float& value = small.share().velocity().host()[bias.offset];
    value = std::nextafter(value, 1.0f);
    small.share().velocity().store();
  }

  const std::string text =
      error_text(ExitStatus::failure, [&] { require_equal_replicas(small.network); });

  EXPECT_THAT(text, AllOf(HasSubstr("rank 1: /optimizer/momentum/closing/bias of replica 1")));
}

// Weights, gradients and velocity in memory that the host can't read; every call late.
TEST_P(TrainingStepOf, ABackendThatIsLateAndApartTrainsWithTheSameBits) {
  Config config = small_config(std::get<0>(GetParam()));
  config.schedule = std::get<1>(GetParam());
  config.backend = "reference";
  for (const char* activations : {"reverse", "store"}) {
    SCOPED_TRACE(activations);
    config.activations = activations;
    SmallNetwork spread(config, world_, Placement::round_robin(world_.size(), world_.size()),
                        std::make_unique<DeferredBackend<float>>());

    expect_training_of_one_rank(spread, config);
  }
}

// On one rank as soon as it can be, on many ranks as late as it can be, or at random.
TEST_P(DeviceStepOf, ACudaBackendHasTheSameBitsOnEveryGrid) {
  Config config = small_config(std::get<0>(GetParam()));
  config.schedule = std::get<1>(GetParam());
  for (const bool in_one_launch : {false, true}) {
    const auto backend = [&](cuda::RunOrder order) {
      return in_one_launch ? make_whole_cuda_backend(order)
                           : cuda::make_cuda_backend(std::make_unique<cuda::HostDevice>(order));
    };
    const BackendOfOneRank of_one_rank{.name = in_one_launch ? "whole" : "made",
                                       .make = [&] { return backend(cuda::RunOrder::eager); }};
    for (int time_ranks = 1; time_ranks <= world_.size(); time_ranks *= 2) {
      SCOPED_TRACE(fmt::format("{}, {} time ranks", of_one_rank.name, time_ranks));
      const bool is_late = time_ranks == world_.size();
      config.activations = is_late ? "reverse" : "store";
      SmallNetwork spread(config, world_, Placement::round_robin(time_ranks, time_ranks),
                          backend(is_late ? cuda::RunOrder::lazy : cuda::RunOrder::random));

      expect_training_of_one_rank(spread, config, of_one_rank);
      require_equal_replicas(spread.network);
    }
  }
}

// In no order of the device's work does a message leave too early, or arrive too early, which the
// device would say. The host has no side of any.
TEST_P(DeviceStepOf, MessagesBetweenMemoriesOfDevicesChangeNoBits) {
  if (world_.size() == 1) GTEST_SKIP() << "one rank sends nothing";
  Config config = small_config(std::get<0>(GetParam()));
  config.schedule = std::get<1>(GetParam());
  const auto backend = [](cuda::RunOrder order) {
    return cuda::make_cuda_backend(std::make_unique<cuda::HostDevice>(order));
  };
  const BackendOfOneRank of_one_rank{.name = "made",
                                     .make = [&] { return backend(cuda::RunOrder::eager); }};
  const DeviceMessages on;
  for (const cuda::RunOrder order :
       {cuda::RunOrder::eager, cuda::RunOrder::lazy, cuda::RunOrder::random}) {
    const std::int64_t before = memory_use().current(Memory::state);
    SmallNetwork spread(config, world_, Placement::round_robin(world_.size(), world_.size()),
                        backend(order));
    EXPECT_TRUE(spread.network.pipeline().messages_stay_on_device());

    expect_training_of_one_rank(spread, config, of_one_rank);
    EXPECT_EQ(memory_use().current(Memory::state), before);
  }
}

TEST_F(TrainingStepOnce, WhetherMpiTakesMemoryOfDevicesIsYesOrNo) {
  if (world_.size() == 1) GTEST_SKIP() << "one rank sends nothing";
  setenv("REVODE_DEVICE_MESSAGES", "yes", 1);
  const std::string text = error_text(ExitStatus::bad_input, [&] {
    const SmallNetwork small(small_config(), world_,
                             Placement::round_robin(world_.size(), world_.size()),
                             make_late_cuda_backend(3));
  });
  unsetenv("REVODE_DEVICE_MESSAGES");
  EXPECT_THAT(text,
              AllOf(HasSubstr("REVODE_DEVICE_MESSAGES is 'yes'"), HasSubstr("expected 1 or 0")));
}

// Pixels that the backend keeps, against images that are made here.
TEST_F(TrainingStepOnce, ADatasetTrainsAsItsImagesDo) {
  const Dataset data =
      load_dataset(dataset_info("synthetic"), "", Split::test, Contents::images_and_labels);
  const InputTransform transform{
      .statistics = {{0.5f, 0.4f, 0.3f}, {0.2f, 0.25f, 0.5f}}, .augment = true, .seed = 3};
  const std::vector<std::int64_t> indices{7, 999, 0, 7, 500, 3, 2, 1};
  for (const std::string& name : test_backend_names()) {
    SCOPED_TRACE(name);
    Config config = small_config();
    if (name == "deferred") config.backend = "reference";
    SmallNetwork small(config, world_, Placement::round_robin(world_.size(), world_.size()),
                       make_test_backend(name, 2));
    DataFeed feed(config, Split::test, 1, small.grid);
    if (small.grid.is_reader()) feed.set_transform(transform, small.network.shared_backend());
    TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
    for (const std::int64_t epoch : {0, 1}) {
      batch.images = plain_images(data, indices, transform, epoch);
      for (std::size_t n = 0; n < indices.size(); ++n) batch.labels[n] = data.labels[indices[n]];
      const StepReport expected = small.training.compute_gradient(source_of(batch));
      const auto gradient = small.share().gradient().read_values();
      const std::vector<float> kept(gradient.begin(), gradient.end());

      const StepReport got = small.training.compute_gradient(feed.mini_batch(indices, epoch, 3));

      EXPECT_EQ(got.loss, expected.loss);
      EXPECT_EQ(got.gradient_norm, expected.gradient_norm);
      EXPECT_EQ(num_differing(small.share().gradient().read_values(), kept), 0u);
    }
  }
}

TEST_F(TrainingStepOnce, AnyRankThatIsAskedToStopStopsAll) {
  SmallNetwork small(small_config(), world_);
  const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
  const bool last = world_.rank() + 1 == world_.size();
  EXPECT_TRUE(small.training.compute_gradient(source_of(batch), last).stop_requested);
}

// From rest, the velocity after a step is the gradient as it was clipped.
TEST_F(TrainingStepOnce, ClippingScalesTheWholeGradientToTheNormAskedFor) {
  Config config = small_config();
  config.clip_norm = 0.01;
  SmallNetwork small(config, world_);
  const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
  const StepReport report = small.training.compute_gradient(source_of(batch));
  ASSERT_GT(report.gradient_norm, 0.1);
  small.training.update(0, report);

  double mine = 0;
  const std::span<const float> velocity = small.share().velocity().read();
  for (const ParameterEntry* entry : small.share().map().entries())
    for (std::size_t i = entry->offset; entry->trainable && i < entry->offset + entry->size(); ++i)
      mine += double{velocity[i]} * velocity[i];
  double sum = 0;
  for (const double part : world_.all_gather(std::span<const double>(&mine, 1))) sum += part;
  EXPECT_NEAR(std::sqrt(sum), 0.01, 1e-8);  // float rounding of each entry
}

TEST_F(TrainingStepOnce, ANormBelowTheBoundIsNotClipped) {
  Config config = small_config();
  config.clip_norm = 1e3;
  SmallNetwork small(config, world_);
  const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
  small.training.update(0, small.training.compute_gradient(source_of(batch)));
  EXPECT_EQ(num_differing_rows(small.share().map(), small.share().velocity().read(),
                               small.share().map(), small.share().gradient().read_values()),
            0u);
}

TEST_F(TrainingStepOnce, NonFiniteWeightsAreTracedToTheirCoupling) {
  SmallNetwork small(small_config(), world_);
  const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
  const ParameterEntry& bias = small.share().map().stages[1].bias;
  constexpr std::int64_t row = 1;  // couplings are counted from 0, as the rows of a checkpoint
  const int rank = holder(bias, row);
  small.share().values().fetch();
  if (rank == world_.rank())
    small.share().values().host()[bias.offset + (row - bias.first_row) * bias.row_size()] =
        std::numeric_limits<float>::infinity();
  small.share().values().store();
  small.network.load_weights();
  const StepReport report = small.training.compute_gradient(source_of(batch));
  EXPECT_FALSE(std::isfinite(report.loss));

  EXPECT_THAT(explanation(small, source_of(batch), report),
              AllOf(HasSubstr("the loss is not finite"), HasSubstr("step 7 (epoch 0)"),
                    HasSubstr("coupling 1 of stage 2"),
                    HasSubstr("rank " + std::to_string(rank) + ", micro-batch 0")));
}

TEST_F(TrainingStepOnce, NonFiniteImagesAreTracedToTheirMicroBatch) {
  SmallNetwork small(small_config(), world_);
  TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
  batch.images[4 * batch.image_size] = std::numeric_limits<float>::quiet_NaN();
  const StepReport report = small.training.compute_gradient(source_of(batch));

  EXPECT_THAT(explanation(small, source_of(batch), report),
              AllOf(HasSubstr("the opening"), HasSubstr("rank 0, micro-batch 1")));
}

TEST_F(TrainingStepOnce, AGradientAloneThatIsNotFiniteAroseOnTheWayBack) {
  SmallNetwork small(small_config(), world_);
  const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
  StepReport report = small.training.compute_gradient(source_of(batch));
  report.gradient_norm = std::numeric_limits<double>::infinity();

  EXPECT_THAT(explanation(small, source_of(batch), report),
              AllOf(HasSubstr("gradient is not finite"), HasSubstr("backward sweep")));
}

// A scale of the closing of 10^7 leaves the loss finite and makes the gradient of 10^4 and more.
TEST_F(TrainingStepOnce, AGradientOutOfRangeIsTracedToItsLayer) {
  Config config = small_config();
  SmallNetwork small(config, world_);
  const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
  const ParameterMap& map = small.share().map();
  const ParameterEntry& scale = map.closing_norm.scale;
  small.share().values().fetch();
  for (std::size_t f = 0; f < scale.size(); ++f)
    small.share().values().host()[scale.offset + f] = 1e7f;
  small.share().values().store();
  small.network.load_weights();
  const StepReport report = small.training.compute_gradient(source_of(batch));
  ASSERT_TRUE(std::isfinite(report.loss));
  ASSERT_TRUE(report.overflow.has_value());

  EXPECT_THAT(
      explanation(small, source_of(batch), report),
      AllOf(HasSubstr("step 7 (epoch 0)"),
            HasSubstr("rank " + std::to_string(world_.size() - 1) + ", micro-batch 0, the closing"),
            HasSubstr("the gradient left the range of exact sums; a smaller --step-size or "
                      "--learning-rate may help")));
}

TEST_F(TrainingStepOnce, TheExplanationIsAnErrorOfAllRanks) {
  SmallNetwork small(small_config(), world_);
  TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
  batch.images[0] = std::numeric_limits<float>::quiet_NaN();
  const StepReport report = small.training.compute_gradient(source_of(batch));
  try {
    small.training.require_finite(source_of(batch), report, "step 1");
    FAIL() << "nothing was thrown";
  } catch (const NonFiniteError& error) {
    EXPECT_EQ(error.scope(), ErrorScope::all_ranks);
    EXPECT_EQ(error.found().what, "the loss is not finite");  // no rank: the same on any grid
  }
}

}  // namespace
}  // namespace revode
