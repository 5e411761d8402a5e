// A network trained by several ranks in one process, without MPI: real slices over the messages of
// the simulation, against one slice.
#include "revode/pipeline/simulation.hpp"

#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/pipeline/network_work.hpp"
#include "revode/pipeline/partition.hpp"

#include "pipeline/shuffled_schedule.hpp"
#include "support/mini_batch_source.hpp"
#include "support/slice_chain.hpp"
#include "support/test_backends.hpp"

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
      for (const int slice : placement.slices_of(rank)) {
        slices.push_back(&chain_.part(slice).slice());
        chain_.part(slice).gradient().clear();
      }
      std::vector<int> numbers(source.micro_batches.size());
      std::iota(numbers.begin(), numbers.end(), 0);
      works_.push_back(std::make_unique<NetworkWork>(placement, rank, slices, backend, source,
                                                     numbers, Mode::train, SweepObservers{}));
    }
    for (int slice = 0; slice < placement.num_slices(); ++slice) {
      slot_size_.state = std::max(slot_size_.state, chain_.part(slice).slice().message_capacity(3));
      slot_size_.adjoint =
          std::max(slot_size_.adjoint, chain_.part(slice).slice().adjoint_capacity(3));
    }
  }

  WorkOfRank work() {
    return [this](int rank) -> SliceWork& { return *works_[rank]; };
  }
  SweepResult result_of(int rank) {
    works_[rank]->finish();
    return works_[rank]->result();
  }
  Mailbox::SlotSize slot_size() const { return slot_size_; }
  /// Of all slices, in the order of the checkpoint.
  std::vector<float> gradient() {
    for (auto& part : chain_.parts()) part->gradient().finish();
    return chain_.gradient();
  }

 private:
  SliceChain<float> chain_;
  std::vector<std::unique_ptr<NetworkWork>> works_;
  Mailbox::SlotSize slot_size_;
};

class SimulationOf : public testing::TestWithParam<std::string> {};

#ifdef REVODE_WITHOUT_HOST_DEVICE
const auto simulated = testing::Values("cpu", "deferred");
std::unique_ptr<Backend<float>> make_simulated(const std::string& name) {
  return make_test_backend(name, 1);
}
#else
const auto simulated = testing::Values("cpu", "deferred", "cuda_on_host");
/// The clock of the simulation does not come back to ask a device again.
std::unique_ptr<Backend<float>> make_simulated(const std::string& name) {
  return name == "cuda_on_host" ? make_late_cuda_backend(1) : make_test_backend(name, 1);
}
#endif
INSTANTIATE_TEST_SUITE_P(Backends, SimulationOf, simulated,
                         [](const auto& backend) { return backend.param; });

TEST_P(SimulationOf, TrainsWithTheBitsOfOneSliceOnAnyPlacement) {
  const Architecture network = make();
  const auto backend = make_simulated(GetParam());
  const TestBatch<float> batch(network, {3, 3, 2, 2});
  const MiniBatchSource source = source_of(batch);
  SliceChain<float> whole(network, *backend);
  const double loss = whole.train(batch);
  const std::vector<float> expected = whole.gradient();
  for (const std::vector<int>& rank_of_slice :
       {std::vector{0}, {0, 1}, {0, 1, 0}, {0, 1, 2, 3}, {0, 1, 0, 1}, {0, 1, 1, 0}, {0, 0, 1}}) {
    for (const ScheduleRule* rule : {&schedule_rule("gpipe"), &shuffled_schedule}) {
      for (const Delivery delivery :
           {Delivery::rendezvous, Delivery::at_once, Delivery::exchange}) {
        const Placement placement(rank_of_slice);
        Ranks ranks(network, placement, *backend, source);
        const SimulationCosts costs{
            .compute = [](const Work&) { return 1.0; },
            .message = [](int from, int, auto&&...) { return from == 0 ? 7.0 : 0.1; },
            .delivery = delivery};

        const SimulationResult result = simulate(make_programs(*rule, placement, 4), placement,
                                                 costs, ranks.slot_size(), ranks.work(), *backend);

        EXPECT_EQ(result.faults, std::vector<std::string>{});
        double found = 0;
        for (int rank = 0; rank < placement.num_ranks(); ++rank)
          found += ranks.result_of(rank).total().loss_sum / batch.size();
        EXPECT_EQ(found, loss);
        EXPECT_EQ(num_differing(ranks.gradient(), expected), 0u);
      }
    }
  }
}

/// Says of every copy that it is done: what was to come to the host never does, as if it had been
/// read before.
class ImpatientQueue final : public CallQueue {
 public:
  explicit ImpatientQueue(CallQueue& queue) : queue_(queue) {}
  MemorySpace& space() override { return queue_.space(); }
  Mark mark() override { return queue_.mark(); }
  bool reached(Mark) override { return true; }
  void wait(Mark) override {}
  void zero(void* to, std::size_t bytes) override { queue_.zero(to, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override {
    queue_.copy(to, from, bytes);
  }
  void copy_in(void* to, const void* host, std::size_t bytes) override {
    queue_.copy_in(to, std::memcpy(keep(bytes), host, bytes), bytes);
  }
  void copy_out(void* host, const void* from, std::size_t bytes) override {
    queue_.copy_out(keep(bytes), from, bytes);
    std::memset(host, 0xff, bytes);
  }
  void digest(const std::vector<std::span<const std::byte>>& arrays,
              std::uint64_t* digests) override {
    queue_.digest(arrays, digests);
  }

 private:
  /// Memory that lives until the calls are done.
  std::byte* keep(std::size_t bytes) { return kept_.emplace_back(bytes).data(); }

  CallQueue& queue_;
  std::deque<std::vector<std::byte>> kept_;
};

// Planted: a mailbox that sends before the state has reached the host. The deferred backend must
// show it; what is sent is poison.
TEST(Simulation, AMailboxThatDoesNotWaitIsFoundOut) {
  const Architecture network = make();
  DeferredBackend<float> backend;
  const TestBatch<float> batch(network, {2, 2});
  const MiniBatchSource source = source_of(batch);
  const Placement placement({0, 1});
  const SimulationCosts costs{.compute = [](const Work&) { return 1.0; },
                              .message = [](auto&&...) { return 0.5; }};
  const auto loss_with = [&](CallQueue& queue) {
    Ranks ranks(network, placement, backend, source);
    simulate(make_programs(schedule_rule("gpipe"), placement, 2), placement, costs,
             ranks.slot_size(), ranks.work(), queue);
    ranks.result_of(0);
    return ranks.result_of(1).total().loss_sum;
  };
  ImpatientQueue impatient(backend);

  EXPECT_TRUE(std::isfinite(loss_with(backend)));
  EXPECT_FALSE(std::isfinite(loss_with(impatient)));
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
