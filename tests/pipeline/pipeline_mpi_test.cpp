// The executor over as many slices as there are ranks, against one slice that each rank computes
// for itself: the same bits.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "revode/comm/communicator.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/pipeline/pipeline.hpp"
#include "revode/pipeline/schedule.hpp"

#include "pipeline/shuffled_schedule.hpp"
#include "support/mini_batch_source.hpp"
#include "support/test_backends.hpp"

namespace revode {
namespace {

Architecture make(const std::string& arch) {
  ArchitectureOptions options;
  options.arch = arch;
  options.blocks = {2, 2, 2};
  options.widths = {4, 8, 10};
  options.image_height = options.image_width = 8;
  options.num_classes = 4;
  return Architecture(options);
}

/// One rank's slice and its pipeline.
struct Worker {
  Worker(const Architecture& architecture, const Communicator& communicator,
         const std::string& backend_name)
      : backend(make_test_backend(backend_name, 2)),
        share(make_random_share(architecture, communicator.rank(),
                                partition(architecture, communicator.size())[communicator.rank()],
                                *backend)),
        grid(communicator, communicator.size(), 1),
        pipeline(grid, Placement::round_robin(communicator.size(), communicator.size()),
                 {&share->slice()}, *backend, 3) {}

  std::unique_ptr<Backend<float>> backend;
  std::unique_ptr<Share<float>> share;
  Grid grid;
  Pipeline pipeline;
};

/// This slice's rows must have the bits of the same rows of the whole network.
template <typename T>
void expect_same_rows(const ParameterMap& slice, std::span<T> slice_array,
                      const ParameterMap& whole, std::span<T> whole_array) {
  const auto of_slice = slice.entries(), of_whole = whole.entries();
  for (std::size_t e = 0; e < of_slice.size(); ++e) {
    const ParameterEntry& rows = *of_slice[e];
    const std::size_t start = of_whole[e]->offset + rows.first_row * rows.row_size();
    EXPECT_EQ(num_differing(slice_array.subspan(rows.offset, rows.size()),
                            whole_array.subspan(start, rows.size())),
              0u)
        << rows.name;
  }
}

void expect_same_gradients(Share<float>& slice, Share<float>& whole) {
  expect_same_rows(slice.map(), slice.gradient().read_sums(), whole.map(),
                   whole.gradient().read_sums());
}

void expect_same_values(Share<float>& slice, Share<float>& whole) {
  expect_same_rows(slice.map(), slice.values().read(), whole.map(), whole.values().read());
}

const ScheduleRule& rule_of(const std::string& name) {
  return name == "shuffled" ? shuffled_schedule : schedule_rule(name);
}

using Logits = std::vector<float>;
OnLogits collect(Logits& logits) {
  return [&logits](int, std::span<const float> more) {
    logits.insert(logits.end(), more.begin(), more.end());
  };
}

SweepResult train(Pipeline& pipeline, const ScheduleRule& rule, const MiniBatchSource& source,
                  const OnLogits& on_logits = {}) {
  pipeline.train(rule, source, on_logits);
  return pipeline.result();
}

class PipelineOf
    : public testing::TestWithParam<std::tuple<std::string, std::string, std::string>> {
 protected:
  Communicator world_{MPI_COMM_WORLD}, self_{MPI_COMM_SELF};
};

class PipelineOnce : public testing::Test {
 protected:
  Communicator world_{MPI_COMM_WORLD}, self_{MPI_COMM_SELF};
};

INSTANTIATE_TEST_SUITE_P(All, PipelineOf,
                         testing::Combine(testing::ValuesIn(architecture_names()),
                                          testing::Values("gpipe", "1f1b", "shuffled"),
                                          testing::ValuesIn(test_backend_names())),
                         [](const auto& of) {
                           return std::get<0>(of.param) + "_" + std::get<1>(of.param) + "_" +
                                  std::get<2>(of.param);
                         });

TEST_P(PipelineOf, SlicesOverRanksEqualOneSliceBitForBit) {
  const auto [arch, schedule, backend] = GetParam();
  const Architecture network = make(arch);
  Worker slice(network, world_, backend), whole(network, self_, backend);
  const bool last = world_.rank() + 1 == world_.size();
  for (const std::vector<int>& sizes :
       {std::vector{3, 3, 2}, {2}, {1, 1, 1, 1, 1, 1, 1, 1, 1}}) {  // uneven, few, many
    SCOPED_TRACE(sizes.size());
    const TestBatch<float> batch(network, sizes);
    const MiniBatchSource source = source_of(batch);
    Logits of_slices, of_whole;

    const SweepResult got = train(slice.pipeline, rule_of(schedule), source, collect(of_slices));
    const SweepResult expected =
        train(whole.pipeline, schedule_rule("gpipe"), source, collect(of_whole));
    for (Worker* worker : {&slice, &whole}) worker->share->slice().update_running_averages();

    EXPECT_EQ(got.total().loss_sum, last ? expected.total().loss_sum : 0);
    EXPECT_EQ(got.total().num_correct, last ? expected.total().num_correct : 0);
    EXPECT_EQ(num_differing(of_slices, last ? of_whole : Logits{}), 0u);
    expect_same_gradients(*slice.share, *whole.share);
    expect_same_values(*slice.share, *whole.share);  // running averages
  }
  const std::span<const ExactSum> sums = whole.share->gradient().read_sums();
  EXPECT_GT(num_differing(sums, std::vector<ExactSum>(sums.size())), 0u);
}

TEST_P(PipelineOf, EvaluationOverRanksEqualsThatOfOneSlice) {
  const auto [arch, schedule, backend] = GetParam();
  const Architecture network = make(arch);
  Worker slice(network, world_, backend), whole(network, self_, backend);
  const bool last = world_.rank() + 1 == world_.size();
  const TestBatch<float> batch(network, {3, 3, 2});
  const MiniBatchSource source = source_of(batch);
  Logits of_slices, of_whole;

  const SweepResult got = slice.pipeline.evaluate(source, collect(of_slices));
  const SweepResult expected = whole.pipeline.evaluate(source, collect(of_whole));

  EXPECT_EQ(got.total().loss_sum, last ? expected.total().loss_sum : 0);
  EXPECT_EQ(num_differing(of_slices, last ? of_whole : Logits{}), 0u);
  EXPECT_EQ(of_whole.size(), 8u * 4);
  expect_same_values(*slice.share, *whole.share);
}

// The layer that all ranks together find first is the one that a single slice finds.
TEST_P(PipelineOf, InspectionOverRanksFindsTheLayerOfOneSlice) {
  const auto [arch, schedule, backend] = GetParam();
  const Architecture network = make(arch);
  Worker slice(network, world_, backend), whole(network, self_, backend);
  const TestBatch<float> batch(network, {3, 3, 2});
  const MiniBatchSource source = source_of(batch);
  EXPECT_FALSE(slice.pipeline.inspect(source).has_value());
  EXPECT_FALSE(whole.pipeline.inspect(source).has_value());
  for (Worker* worker : {&slice, &whole}) {
    Share<float>& share = *worker->share;
    const ParameterEntry& bias = share.map().stages[1].bias;
    share.values().fetch();
    if (bias.num_rows > 0 && bias.first_row + bias.num_rows == bias.shape[0])  // its last coupling
      share.values().host()[bias.offset + bias.size() - 1] = std::numeric_limits<float>::infinity();
    share.values().store();
    share.slice().load_weights();
  }

  const auto mine = slice.pipeline.inspect(source);
  const auto expected = whole.pipeline.inspect(source);

  ASSERT_TRUE(expected.has_value());
  EXPECT_EQ(expected->layer, network.stages()[2].first_coupling);
  const std::vector<std::int64_t> layers =
      world_.all_gather(mine ? std::int64_t{mine->layer} : std::int64_t{1'000'000});
  const auto first = std::ranges::min_element(layers);
  EXPECT_EQ(*first, expected->layer);
  if (first - layers.begin() == world_.rank()) {
    EXPECT_EQ(mine->micro_batch, 0);
  }
}

TEST_F(PipelineOnce, InspectionNamesTheMicroBatch) {
  const Architecture network = make("hamiltonian");
  Worker slice(network, world_, "reference");
  TestBatch<float> batch(network, {3, 3, 2});
  batch.images[4 * batch.image_size] = std::numeric_limits<float>::quiet_NaN();

  const auto finding = slice.pipeline.inspect(source_of(batch));

  ASSERT_TRUE(finding.has_value());  // what is not finite stays so through all ranks
  EXPECT_EQ(finding->micro_batch, 1);
  if (world_.is_root()) {
    EXPECT_EQ(finding->layer, 0);
  }
}

TEST_F(PipelineOnce, CountsOfTheRangeAddUpToThoseOfOneSlice) {
  ArchitectureOptions options;
  options.arch = "leapfrog";
  options.blocks = {20, 20};
  options.widths = {4, 4};
  options.step_size = 2;
  options.image_height = options.image_width = 4;
  const Architecture network(options);
  Worker slice(network, world_, "reference"), whole(network, self_, "reference");
  const TestBatch<float> batch(network, {2, 1});
  const ScheduleRule& schedule = schedule_rule("1f1b");

  train(slice.pipeline, schedule, source_of(batch));
  train(whole.pipeline, schedule, source_of(batch));

  const RangeCounts mine = slice.share->slice().range_counts(),
                    all = whole.share->slice().range_counts();
  std::int64_t out_of_range = 0;
  for (const std::int64_t count : world_.all_gather(mine.out_of_range)) out_of_range += count;
  EXPECT_EQ(out_of_range, all.out_of_range);
  EXPECT_GT(all.out_of_range, 0);
}

class RingOf : public PipelineOnce,
               public testing::WithParamInterface<std::tuple<std::string, std::string>> {};

INSTANTIATE_TEST_SUITE_P(All, RingOf,
                         testing::Combine(testing::ValuesIn(architecture_names()),
                                          testing::ValuesIn(test_backend_names())),
                         [](const auto& of) {
                           return std::get<0>(of.param) + "_" + std::get<1>(of.param);
                         });

// A rank may own several slices: with two a rank the chain is a ring, and a rank that is alone
// hands states over in place.
TEST_P(RingOf, SeveralSlicesARankEqualOneSliceBitForBit) {
  const auto [arch, backend_name] = GetParam();
  const Architecture network = make(arch);
  Worker whole(network, self_, backend_name);
  const int num_slices = std::min(2 * world_.size(), network.num_blocks());
  const Placement placement = Placement::round_robin(num_slices, world_.size());
  const std::vector<BlockRange> cut = partition(network, num_slices);
  const auto backend = make_test_backend(backend_name, 2);
  std::vector<std::unique_ptr<Share<float>>> shares;
  std::vector<TimeSlice<float>*> slices;
  for (const int slice : placement.slices_of(world_.rank())) {
    shares.push_back(make_random_share(network, slice, cut[slice], *backend));
    slices.push_back(&shares.back()->slice());
  }
  const Grid grid(world_, world_.size(), 1);
  Pipeline pipeline(grid, placement, slices, *backend, 3);
  const TestBatch<float> batch(network, {3, 3, 3, 2, 2});
  const MiniBatchSource source = source_of(batch);
  const bool last = placement.last_rank() == world_.rank();
  for (const ScheduleRule* rule : {&schedule_rule("gpipe"), &shuffled_schedule}) {
    SCOPED_TRACE(rule->name);
    for (const auto& share : shares) share->gradient().clear();
    whole.share->gradient().clear();
    const SweepResult got = train(pipeline, *rule, source);
    const SweepResult expected = train(whole.pipeline, schedule_rule("gpipe"), source);

    EXPECT_EQ(got.total().loss_sum, last ? expected.total().loss_sum : 0);
    for (const auto& share : shares) expect_same_gradients(*share, *whole.share);
  }
  EXPECT_EQ(pipeline.evaluate(source).total().loss_sum,
            last ? whole.pipeline.evaluate(source).total().loss_sum : 0);
}

// Each rank has one slice here.
TEST_F(PipelineOnce, TraceHoldsAllWorkAndEveryMessageOfATrainingSweepAlone) {
  Worker slice(make("leapfrog"), world_, "reference");
  const TestBatch<float> batch(make("leapfrog"), {3, 3, 2, 1});
  TraceRecorder trace(1);
  trace.begin_step(1);
  slice.pipeline.set_trace(&trace);

  slice.pipeline.evaluate(source_of(batch));
  EXPECT_TRUE(trace.steps().back().events.empty());
  slice.pipeline.train(schedule_rule("1f1b"), source_of(batch));

  std::map<TraceAction, std::vector<int>> micro_batches;
  std::map<int, int> sent_to, received_from;
  const std::vector<TraceEvent>& events = trace.steps().back().events;
  for (const TraceEvent& event : events) {
    EXPECT_LE(event.begin, event.end);
    micro_batches[event.action].push_back(event.micro_batch);
    if (event.action == TraceAction::send) ++sent_to[event.peer];
    if (event.action == TraceAction::receive) ++received_from[event.peer];
    if (event.action == TraceAction::forward || event.action == TraceAction::backward) {
      EXPECT_EQ(event.slice, world_.rank());
    }
  }
  EXPECT_EQ(micro_batches[TraceAction::forward], (std::vector{0, 1, 2, 3}));
  EXPECT_EQ(micro_batches[TraceAction::backward], (std::vector{0, 1, 2, 3}));
  EXPECT_EQ(micro_batches[TraceAction::data].size(), world_.is_root() ? 4u : 0u);
  // A state forward; a rebuilt state and an adjoint back.
  std::map<int, int> sent_expected, received_expected;
  if (world_.rank() + 1 < world_.size()) {
    sent_expected[world_.rank() + 1] = 4;
    received_expected[world_.rank() + 1] = 8;
  }
  if (world_.rank() > 0) {
    sent_expected[world_.rank() - 1] = 8;
    received_expected[world_.rank() - 1] = 4;
  }
  EXPECT_EQ(sent_to, sent_expected);
  EXPECT_EQ(received_from, received_expected);
  const double seconds = slice.pipeline.take_work_seconds();
  EXPECT_GT(seconds, 0);
  EXPECT_EQ(slice.pipeline.take_work_seconds(), 0);
}

// Buffers are as many and as large for any depth.
TEST_F(PipelineOnce, MessageBuffersDoNotGrowWithDepth) {
  ArchitectureOptions options;
  options.widths = {4, 8};
  options.image_height = options.image_width = 8;
  options.blocks = {8, 8};
  Worker shallow(Architecture(options), world_, "reference");
  options.blocks = {80, 80};
  Worker deep(Architecture(options), world_, "reference");

  EXPECT_EQ(deep.pipeline.buffer_bytes(), shallow.pipeline.buffer_bytes());
}

}  // namespace
}  // namespace revode
