// What is known of memory beforehand, against what a step and an evaluation allocate.
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/core/buffer.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/run/run_log.hpp"
#include "revode/train/memory_forecast.hpp"
#include "revode/train/model_file.hpp"
#include "revode/train/network.hpp"
#include "revode/train/report.hpp"
#include "revode/train/snapshot.hpp"
#include "revode/train/training_step.hpp"

#include "support/mini_batch_source.hpp"
#include "support/slice_chain.hpp"

namespace revode {
namespace {

Config config_of(const std::string& arch, const std::string& schedule, int image_size = 16) {
  Config config;
  config.arch = arch;
  config.blocks = {3, 3, 2};  // for 4 ranks of 2 slices
  config.widths = {4, 6, 34};
  config.image_size = image_size;
  config.batch_size = 8;
  config.micro_batches = 4;
  config.threads = 1;
  config.schedule = schedule;
  config.partition = "flops";
  config.backend = "cpu";
  resolve(config);
  return config;
}

/// Of all arrays that are there now and were not before.
class Allocated {
 public:
  std::int64_t of(Memory use) const { return memory_use().current(use) - before_.current(use); }

 private:
  MemoryUse before_ = memory_use();
};

void expect_states(const MemoryForecast& forecast, const Allocated& allocated) {
  EXPECT_EQ(forecast.weights, allocated.of(Memory::weights));
  EXPECT_EQ(forecast.gradients, allocated.of(Memory::gradients));
  EXPECT_EQ(forecast.momentum, allocated.of(Memory::momentum));
  EXPECT_EQ(forecast.state, allocated.of(Memory::state));
  EXPECT_EQ(forecast.stash, allocated.of(Memory::stash));
}

class MemoryForecastOf : public testing::Test {
 protected:
  /// Grids of all ranks, with 1 and 2 replicas.
  template <typename Body>
  void for_each_grid(Body&& body) const {
    for (const int replicas : {1, 2}) {
      if (world_.size() % replicas != 0) continue;
      const Grid grid(world_, world_.size() / replicas, replicas,
                      std::vector<std::string>(world_.size()));
      SCOPED_TRACE(fmt::format("{} time ranks x {} replicas", grid.time().size(), replicas));
      body(grid);
    }
  }

  static RunPlan plan_of(const Config& config, const Grid& grid, int slices_a_rank) {
    const int time_ranks = grid.time().size();
    return make_plan(config, Placement::round_robin(slices_a_rank * time_ranks, time_ranks),
                     grid.num_replicas());
  }

  static int largest_micro_batch(const RunPlan& plan) {
    return cut_evenly(plan.config.batch_size, plan.num_micro_batches).front();
  }

  static void train_step(Network& network) {
    TrainingStep training(network);
    const RunPlan& plan = network.plan();
    const TestBatch<float> batch(network.architecture(),
                                 cut_evenly(plan.config.batch_size, plan.num_micro_batches));
    training.update(0.1, training.compute_gradient(source_of(batch)));
  }

  void expect_exact(const Config& config, int slices_a_rank) const {
    for_each_grid([&](const Grid& grid) {
      const Allocated allocated;
      const RunPlan plan = plan_of(config, grid, slices_a_rank);
      Network network(plan, grid, largest_micro_batch(plan));
      train_step(network);

      expect_states(forecast_memory(plan, largest_micro_batch(plan))[grid.time().rank()],
                    allocated);
    });
  }

  Communicator world_{MPI_COMM_WORLD};
};

TEST_F(MemoryForecastOf, AStepIsWhatItAllocates) {
  for (const std::string& arch : architecture_names()) {
    for (const std::string& schedule : schedule_names()) {
      for (const char* activations : {"reverse", "store"}) {
        const int most = schedule_rule(schedule).plays_several_slices ? 2 : 1;
        for (int slices_a_rank = 1; slices_a_rank <= most; ++slices_a_rank) {
          SCOPED_TRACE(fmt::format("{}, {}, {}, {} slices a rank", arch, schedule, activations,
                                   slices_a_rank));
          Config config = config_of(arch, schedule);
          config.activations = activations;
          expect_exact(config, slices_a_rank);
        }
      }
    }
  }
}

TEST_F(MemoryForecastOf, AStepOnLargerImagesIsWhatItAllocates) {
  for (const int image_size : {32, 96}) {
    SCOPED_TRACE(image_size);
    expect_exact(config_of("hamiltonian", "1f1b", image_size), 1);
  }
}

// Few micro-batches take few slots.
TEST_F(MemoryForecastOf, AStepOfFewMicroBatchesIsWhatItAllocates) {
  Config config = config_of("midpoint", "interleaved");
  config.micro_batches = 2;
  expect_exact(config, 1);
  expect_exact(config, 2);
}

// 3, 3 and 2 images, and replicas of which one has fewer: a room may hold less than the largest.
TEST_F(MemoryForecastOf, AStepOfUnequalMicroBatchesTakesNoMore) {
  for (const char* activations : {"reverse", "store"}) {
    Config config = config_of("leapfrog", "gpipe");
    config.micro_batches = 3;
    config.activations = activations;
    for_each_grid([&](const Grid& grid) {
      const Allocated allocated;
      const RunPlan plan = plan_of(config, grid, 1);
      Network network(plan, grid, largest_micro_batch(plan));
      train_step(network);

      const MemoryForecast forecast =
          forecast_memory(plan, largest_micro_batch(plan))[grid.time().rank()];
      EXPECT_LE(allocated.of(Memory::state), forecast.state);
      EXPECT_LE(allocated.of(Memory::stash), forecast.stash);
    });
  }
}

TEST_F(MemoryForecastOf, ARunHasASnapshotOfWhatItSaves) {
  for_each_grid([&](const Grid& grid) {
    RunPlan plan = plan_of(config_of("hamiltonian", "1f1b"), grid, 1);
    Network network(plan, grid, largest_micro_batch(plan));
    CheckpointContents contents{
        .config = {}, .root_attributes = {}, .progress = {}, .arrays = model_slices(network)};
    for (const ArraySlice& slice : momentum_slices(network)) contents.arrays.push_back(slice);
    const Allocated allocated;
    Snapshot snapshot;
    snapshot.reserve(contents);
    const auto forecast = [&] {
      return forecast_memory(plan, largest_micro_batch(plan))[grid.time().rank()].snapshot;
    };

    EXPECT_EQ(forecast(), allocated.of(Memory::snapshot));
    plan.config.command = Command::bench;
    EXPECT_EQ(forecast(), 0);
  });
}

TEST_F(MemoryForecastOf, AnEvaluationIsWhatItAllocates) {
  for (const int slices_a_rank : {1, 2}) {
    SCOPED_TRACE(slices_a_rank);
    for_each_grid([&](const Grid& grid) {
      const Allocated allocated;
      RunPlan plan = plan_of(config_of("hamiltonian", "interleaved"), grid, slices_a_rank);
      plan.use = NetworkUse::evaluation;
      Network network(plan, grid, 2);
      const TestBatch<float> batch(network.architecture(), std::vector<int>(24, 2));
      network.pipeline().evaluate(source_of(batch), {});

      expect_states(forecast_memory(plan, 2)[grid.time().rank()], allocated);
    });
  }
}

// On one rank: the line of its slice.
TEST_F(MemoryForecastOf, TheStartUpBlockShowsWhatWillBeKept) {
  const Communicator self{MPI_COMM_SELF};
  for (const char* activations : {"reverse", "store"}) {
    SCOPED_TRACE(activations);
    Config config = config_of("hamiltonian", "gpipe");
    config.activations = activations;
    const Grid grid(self, 1, 1, {""});
    const Allocated allocated;
    Network network(plan_of(config, grid, 1), grid, 2);
    const std::string block = start_block(network);
    train_step(network);

    const auto kept = static_cast<double>(allocated.of(Memory::stash));
    const std::string line_end = format_bytes(kept) + "  opening, stages 1-3, closing\n";
    EXPECT_NE(block.find(line_end), std::string::npos) << line_end << block;
  }
}

}  // namespace
}  // namespace revode
