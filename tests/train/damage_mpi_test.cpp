// Bits that flip in memory where a step has digests or sums to hold them against: found, named, and
// of no effect where the step can be repeated.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "revode/core/digest.hpp"
#include "revode/model/architecture.hpp"
#include "revode/train/damage.hpp"

#include "backend/cuda/cuda_backend.hpp"
#include "backend/cuda/host_device.hpp"
#include "support/deferred_backend.hpp"
#include "support/device_messages.hpp"
#include "support/error_text.hpp"
#include "support/mini_batch_source.hpp"
#include "support/numbers.hpp"
#include "support/slice_chain.hpp"
#include "train/small_network.hpp"

namespace revode {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

/// On one rank, in the next so many arrays of a kind.
struct Flip {
  std::string_view what;
  int times = 0;
};
Flip flip;

void strike(const GuardedArray& array) {
  if (array.what != flip.what || flip.times == 0) return;
  --flip.times;
  array.bytes[array.bytes.size() / 3] ^= std::byte{0x10};
}

class DamageTest : public testing::Test {
 protected:
  DamageTest() { on_guarded_array = strike; }
  ~DamageTest() override { on_guarded_array = nullptr; }

  void plant(std::string_view what, int rank, int times = 1) const {
    flip = {what, world_.rank() == rank ? times : 0};
  }

  Placement all_ranks() const { return Placement::round_robin(world_.size(), world_.size()); }

  /// Three steps, damaged in the second; returns its report. The values of this rank's first share
  /// become `values`.
  StepReport train(SmallNetwork& small, std::vector<float>& values, std::string_view what = "",
                   int rank = 0, int times = 1) const {
    const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
    StepReport second;
    for (int step = 0; step < 3; ++step) {
      if (step == 1) plant(what, rank, times);
      const StepReport report = small.training.compute_gradient(source_of(batch));
      if (step == 1) second = report;
      if (report.damage) return second;
      small.training.update(0.1, report);
    }
    const std::span<const float> read = small.share().values().read();
    values.assign(read.begin(), read.end());
    return second;
  }

  using MakeBackend = std::function<std::unique_ptr<Backend<float>>()>;

  void expect_repeated(
      const Placement& placement, std::string_view what, int rank, DamageKind kind,
      bool checks_reversal = false, const MakeBackend& make = [] { return nullptr; }) const {
    SmallNetwork small(small_config(), world_, placement, make()),
        other(small_config(), world_, placement, make());
    small.training.check_reversal(checks_reversal);
    std::vector<float> values, expected;
    const StepReport report = train(small, values, what, rank);
    const StepReport undisturbed = train(other, expected);

    ASSERT_EQ(report.repeated.size(), 1u);
    EXPECT_EQ(report.repeated.front().kind, kind) << to_string(report.repeated.front());
    EXPECT_FALSE(report.damage);
    EXPECT_TRUE(undisturbed.repeated.empty());
    EXPECT_EQ(report.loss, undisturbed.loss);
    EXPECT_EQ(report.gradient_norm, undisturbed.gradient_norm);
    EXPECT_EQ(num_differing(values, expected), 0u);
  }

  Communicator world_{MPI_COMM_WORLD};
};

TEST_F(DamageTest, AMessageThatArrivesWithOtherBitsIsRepeated) {
  if (world_.size() == 1) GTEST_SKIP() << "one rank sends nothing";
  expect_repeated(all_ranks(), "message", 0, DamageKind::state);
}

TEST_F(DamageTest, SoIsOneBetweenMemoriesOfDevices) {
  if (world_.size() == 1) GTEST_SKIP() << "one rank sends nothing";
  const DeviceMessages on;
  for (const int rank : {0, world_.size() - 1})
    expect_repeated(all_ranks(), "message", rank,
                    rank == 0 ? DamageKind::state : DamageKind::rebuilt_state, false, [] {
                      return cuda::make_cuda_backend(
                          std::make_unique<cuda::HostDevice>(cuda::RunOrder::random));
                    });
}

TEST_F(DamageTest, SoIsABlockOfWeights) {
  if (world_.size() != 2) GTEST_SKIP() << "cut within a stage on two ranks";
  expect_repeated(all_ranks(), "edge weights", 1, DamageKind::edge_weights);
}

TEST_F(DamageTest, SumsOfGradientsThatAreNotThoseOfTheReplicasAreRepeated) {
  if (world_.size() == 1) GTEST_SKIP() << "one rank has no replicas";
  const int time_ranks = world_.size() / 2;
  expect_repeated(Placement::round_robin(time_ranks, time_ranks), "gradient sums",
                  world_.size() - 1, DamageKind::gradient_sums);
}

TEST_F(DamageTest, AStateThatIsNotRebuiltIsRepeatedWhereItIsLookedAt) {
  for (int rank = 0; rank < world_.size(); ++rank) {
    SCOPED_TRACE(rank);
    expect_repeated(all_ranks(), "state", rank, DamageKind::rebuilt, true);
  }
  expect_repeated(all_ranks(), "kept state", world_.size() - 1, DamageKind::kept, true);
}

TEST_F(DamageTest, WhereNobodyLooksAtStatesNothingIsFound) {
  SmallNetwork small(small_config(), world_, all_ranks());
  std::vector<float> values;
  const StepReport report = train(small, values, "state");
  EXPECT_TRUE(report.repeated.empty());
  EXPECT_FALSE(report.damage);
}

TEST_F(DamageTest, DamageThatComesBackEachTimeEndsTheStep) {
  SmallNetwork small(small_config(), world_, all_ranks());
  small.training.check_reversal(true);
  std::vector<float> values;
  const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
  const StepReport report = train(small, values, "kept state", world_.size() - 1, 1000);

  ASSERT_TRUE(report.damage);
  EXPECT_EQ(std::ssize(report.repeated), most_damaged_tries - 1);
  EXPECT_EQ(report.damage->rank, world_.size() - 1);
  const std::string text = error_text(ExitStatus::failure, [&] {
    small.training.require_finite(source_of(batch), report, "step 2");
  });
  EXPECT_THAT(text, AllOf(HasSubstr("step 2: the state that slice"),
                          HasSubstr("each of the 3 times"), HasSubstr("micro-batch 0")));
}

/// In the host's memory, in one that it can't touch, and in that of a GPU in host memory.
std::vector<std::unique_ptr<Backend<float>>> backends_by_memory() {
  std::vector<std::unique_ptr<Backend<float>>> backends;
  backends.push_back(make_cpu_backend(2));
  backends.push_back(std::make_unique<DeferredBackend<float>>());
  for (const cuda::RunOrder order : {cuda::RunOrder::lazy, cuda::RunOrder::random})
    backends.push_back(cuda::make_cuda_backend(std::make_unique<cuda::HostDevice>(order)));
  return backends;
}

TEST_F(DamageTest, WeightsAndMomentumThatChangeBetweenUpdatesEndTheStepAtOnce) {
  for (const char* what : {"weights", "momentum"}) {
    std::vector<std::string> found;
    for (std::unique_ptr<Backend<float>>& backend : backends_by_memory()) {
      SCOPED_TRACE(backend->description());
      SmallNetwork small(small_config(), world_, all_ranks(), std::move(backend));
      const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
      plant(what, world_.size() - 1);
      small.training.update(0.1, small.training.compute_gradient(source_of(batch)));
      const StepReport report = small.training.compute_gradient(source_of(batch));

      ASSERT_TRUE(report.damage);
      EXPECT_TRUE(report.repeated.empty());
      EXPECT_EQ(report.damage->kind, DamageKind::weights);
      EXPECT_EQ(report.damage->rank, world_.size() - 1);
      const bool of_values = std::string_view(what) == "weights";
      EXPECT_THAT(report.damage->array, HasSubstr(of_values ? "/model/" : "/optimizer/momentum/"));
      EXPECT_EQ(small.training.find_weight_damage().has_value(),
                world_.rank() == world_.size() - 1);
      found.push_back(to_string(*report.damage));
    }
    EXPECT_THAT(found, Each(found.front()));
  }
}

// Digests come to the host with what a step fetches anyhow.
TEST_F(DamageTest, GuardedWeightsMakeTheHostOfADeviceWaitNoMoreOften) {
  const auto waits_of_step = [&](bool is_guarded) {
    SmallNetwork small(
        small_config(), world_, all_ranks(),
        cuda::make_cuda_backend(std::make_unique<cuda::HostDevice>(cuda::RunOrder::eager)));
    const TestBatch<float> batch(small.network.architecture(), {3, 3, 2});
    if (is_guarded) small.training.guard_weights();
    const std::int64_t before = small.network.backend().work_counts()->num_waits;
    EXPECT_FALSE(small.training.compute_gradient(source_of(batch)).damage);
    return small.network.backend().work_counts()->num_waits - before;
  };
  EXPECT_EQ(waits_of_step(true), waits_of_step(false));
}

// Every state is rebuilt bit for bit, on any backend; what left the range need not be.
TEST_F(DamageTest, NothingIsFoundWhereNothingIsWrong) {
  for (const std::string& arch : architecture_names()) {
    for (const int grid_bits : {16, 22}) {
      for (const bool is_deferred : {false, true}) {
        SCOPED_TRACE(fmt::format("{}, {} bits, {}", arch, grid_bits, is_deferred));
        Config config = small_config(arch);
        config.grid_bits = grid_bits;
        config.backend = "reference";
        SmallNetwork small(config, world_, all_ranks(),
                           is_deferred ? std::make_unique<DeferredBackend<float>>() : nullptr);
        small.training.check_reversal(true);
        std::vector<float> values;
        const StepReport report = train(small, values);
        EXPECT_TRUE(report.repeated.empty());
        EXPECT_FALSE(report.damage);
        // With 22 bits that is |x| < 4, which this network keeps but for leapfrog's.
        EXPECT_EQ(report.range.out_of_range > 0, grid_bits == 22 && arch == "leapfrog");
      }
    }
  }
}

}  // namespace
}  // namespace revode
