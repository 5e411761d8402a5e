// A network trained by several ranks in one process, without MPI: real slices over the messages of
// the simulation, against one slice.
#include "revode/pipeline/simulation.hpp"

#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "revode/pipeline/network_work.hpp"
#include "revode/pipeline/partition.hpp"

#include "pipeline/shuffled_schedule.hpp"
#include "support/slice_chain.hpp"

namespace revode {
namespace {

Architecture make() {
  ArchitectureOptions options;
  options.blocks = {2, 2, 2};
  options.widths = {4, 8, 10};
  options.image_height = options.image_width = 8;
  options.num_classes = 4;
  return Architecture(options);
}

/// What each rank of a placement owns, and the sweep of a mini-batch through it.
class Ranks {
 public:
  Ranks(const Architecture& network, const Placement& placement, Backend<float>& backend,
        const MiniBatchSource& source)
      : chain_(network, partition(network, placement.num_slices()), backend) {
    for (int rank = 0; rank < placement.num_ranks(); ++rank) {
      std::vector<TimeSlice<float>*> slices;
      std::vector<ExactSum*> sums;
      for (const int slice : placement.slices_of(rank)) {
        slices.push_back(&chain_.part(slice).slice);
        sums.push_back(chain_.part(slice).sums.data());
      }
      works_.push_back(std::make_unique<NetworkWork>(placement, rank, slices, source, Mode::train,
                                                     sums, OnLogits{}, nullptr));
    }
    for (int slice = 0; slice < placement.num_slices(); ++slice) {
      slot_size_.state = std::max(slot_size_.state, chain_.part(slice).slice.message_capacity(3));
      slot_size_.adjoint =
          std::max(slot_size_.adjoint, chain_.part(slice).slice.adjoint_capacity(3));
    }
  }

  WorkOfRank work() {
    return [this](int rank) -> SliceWork& { return *works_[rank]; };
  }
  NetworkWork& work_of(int rank) { return *works_[rank]; }
  Mailbox::SlotSize slot_size() const { return slot_size_; }
  /// Of all slices, in the order of the checkpoint.
  std::vector<float> gradient() {
    for (auto& part : chain_.parts()) part->gradient = real_values<float>(part->sums);
    return chain_.gradient();
  }

 private:
  SliceChain<float> chain_;
  std::vector<std::unique_ptr<NetworkWork>> works_;
  Mailbox::SlotSize slot_size_;
};

TEST(Simulation, TrainsWithTheBitsOfOneSliceOnAnyPlacement) {
  const Architecture network = make();
  const auto backend = make_cpu_backend(1);
  const TestBatch<float> batch(network, {3, 3, 2, 2});
  const MiniBatchSource source{.micro_batches = batch.micro_batches,
                               .images =
                                   [&](int m, float* images) {
                                     std::copy_n(batch.images_of(m),
                                                 batch.micro_batches[m] * batch.image_size, images);
                                   },
                               .labels = [&](int m) { return batch.labels_of(m); }};
  SliceChain<float> whole(network, *backend);
  const double loss = whole.train(batch);
  const std::vector<float> expected = whole.gradient();
  for (const std::vector<int>& rank_of_slice :
       {std::vector{0}, {0, 1}, {0, 1, 0}, {0, 1, 2, 3}, {0, 1, 0, 1}, {0, 1, 1, 0}, {0, 0, 1}}) {
    for (const ScheduleRule* rule : {&schedule_rule("gpipe"), &shuffled_schedule}) {
      for (const bool rendezvous : {true, false}) {
        const Placement placement(rank_of_slice);
        Ranks ranks(network, placement, *backend, source);
        const SimulationCosts costs{
            .compute = [](const Work&) { return 1.0; },
            .message = [](int from, int, auto&&...) { return from == 0 ? 7.0 : 0.1; },
            .rendezvous = rendezvous};

        const SimulationResult result = simulate(make_programs(*rule, placement, 4), placement,
                                                 costs, ranks.slot_size(), ranks.work());

        EXPECT_EQ(result.faults, std::vector<std::string>{});
        EXPECT_EQ(num_differing(ranks.gradient(), expected), 0u);
        EXPECT_EQ(ranks.work_of(placement.last_rank()).result().total().loss_sum / batch.size(),
                  loss);
      }
    }
  }
}

// Two ranks, two micro-batches, 1 second forward and 2 back, messages of half a second.
TEST(Simulation, HandNumbers) {
  const Placement placement({0, 1});
  const SimulationCosts costs{
      .compute = [](const Work& work) { return work.sweep == Sweep::forward ? 1.0 : 2.0; },
      .message = [](auto&&...) { return 0.5; }};

  const SimulationResult result =
      simulate(make_programs(schedule_rule("gpipe"), placement, 2), placement, costs);

  // Rank 1: forward from 1.5 to 2.5 and from 2.5 to 3.5, back to 5.5 and 7.5. Rank 0 takes the
  // second back from 8 to 10.
  EXPECT_DOUBLE_EQ(result.seconds, 10);
  EXPECT_DOUBLE_EQ(result.ranks[1].end_seconds, 8);
  EXPECT_DOUBLE_EQ(result.ranks[0].busy_seconds, 6);
  EXPECT_DOUBLE_EQ(result.bubble(), 1 - 12.0 / 20);
}

}  // namespace
}  // namespace revode
