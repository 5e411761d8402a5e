// A model and the state of its run through a checkpoint, for any number of ranks.
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/files/json_text.hpp"
#include "revode/run/run_progress.hpp"
#include "revode/train/model_file.hpp"

#include "pipeline/shuffled_schedule.hpp"
#include "run/some_progress.hpp"
#include "support/deferred_backend.hpp"
#include "support/error_text.hpp"
#include "support/temporary_folder.hpp"
#include "train/small_network.hpp"

namespace revode {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(TrainingData, ComesBackAndMustMakeSense) {
  nlohmann::json config = nlohmann::json::object();
  EXPECT_FALSE(training_data_of(config, "some.h5").has_value());  // a file from before

  store_training_data({80, "0a1b2c3d"}, config);
  const auto stored = training_data_of(config, "some.h5");
  ASSERT_TRUE(stored.has_value());
  EXPECT_EQ(stored->samples, 80);
  EXPECT_EQ(stored->digest, "0a1b2c3d");

  for (const char* text : {R"({"train-samples": "x", "train-digest": "0a"})",
                           R"({"train-samples": 1.5, "train-digest": "0a"})",
                           R"({"train-samples": -1, "train-digest": "0a"})",
                           R"({"train-samples": 80, "train-digest": 7})",
                           R"({"train-samples": 80})", R"({"train-digest": "0a"})"})
    EXPECT_THAT(
        error_text(ExitStatus::bad_input, [&] { training_data_of(parse_json(text), "some.h5"); }),
        testing::AllOf(testing::HasSubstr("some.h5"), testing::HasSubstr("train-samples")))
        << text;
}

/// The first of this rank's.
Share<float>& share_of(const Network& network) { return *network.shares().front(); }

/// To be read, or changed before values().store().
std::span<float> host_values(const Network& network) {
  share_of(network).values().fetch();
  return share_of(network).values().host();
}

class ModelFile : public testing::Test {
 protected:
  ModelFile() {
    if (world_.is_root()) owner_ = std::make_unique<TemporaryFolder>();
    file_ = world_.broadcast(owner_ ? (*owner_ / "model.h5").string() : "", 0);
  }
  ~ModelFile() override { world_.barrier(); }

  void write(Network& network) {
    write_checkpoint(file_,
                     {.config = stored_config(small_config(), network.architecture()),
                      .root_attributes = Attributes::object(),
                      .progress = to_attributes(some_progress(), 7),
                      .arrays = model_slices(network)},
                     world_.handle());
  }

  Communicator world_{MPI_COMM_WORLD}, self_{MPI_COMM_SELF};
  Grid grid_{world_, world_.size(), 1}, grid_of_one_{self_, 1, 1};
  std::unique_ptr<TemporaryFolder> owner_;
  std::string file_;
};

TEST_F(ModelFile, ComesBackOnAnyNumberOfRanks) {
  Config config = small_config();
  Network network(make_plan(config, world_), grid_, 3);
  write(network);
  config.seed = 99;
  Network again(make_plan(config, world_), grid_, 3);
  Network whole(make_plan(config, self_), grid_of_one_, 3);
  EXPECT_NE(num_differing_rows(share_of(again).map(), share_of(again).values().read(),
                               share_of(network).map(), share_of(network).values().read()),
            0u);
  {
    const CheckpointReader reader(file_, world_.handle());
    load_model(reader, file_, again);
    expect_equal(from_attributes(reader.progress(), file_), some_progress());
  }
  {
    const CheckpointReader reader(file_);
    load_model(reader, file_, whole);
  }
  EXPECT_EQ(num_differing_rows(share_of(again).map(), share_of(again).values().read(),
                               share_of(network).map(), share_of(network).values().read()),
            0u);
  EXPECT_EQ(num_differing_rows(share_of(network).map(), share_of(network).values().read(),
                               share_of(whole).map(), share_of(whole).values().read()),
            0u);
}

TEST_F(ModelFile, WeightsThatAreNotFiniteAreRefusedByEveryRank) {
  const Config config = small_config();
  Network network(make_plan(config, world_), grid_, 3);
  if (network.last_share() != nullptr)
    host_values(network)[share_of(network).map().closing_weight.offset + 10 * 7] =
        std::numeric_limits<float>::quiet_NaN();
  share_of(network).values().store();
  write(network);
  const CheckpointReader reader(file_, world_.handle());
  EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { load_model(reader, file_, network); }),
              AllOf(HasSubstr(file_), HasSubstr("/model/closing/weight"), HasSubstr("row 7")));
}

TEST_F(ModelFile, VariancesAndDeviationsThatCannotBeAreRefusedByEveryRank) {
  const Config config = small_config();
  Network network(make_plan(config, world_), grid_, 3);
  const auto error_with = [&](const ParameterEntry& entry, float value) {
    if (entry.num_rows == 0) {
      write(network);
    } else {
      const float before = std::exchange(host_values(network)[entry.offset + 1], value);
      share_of(network).values().store();
      write(network);
      host_values(network)[entry.offset + 1] = before;
    }
    world_.barrier();
    const CheckpointReader reader(file_, world_.handle());
    const std::string error =
        error_text(ExitStatus::bad_input, [&] { load_model(reader, file_, network); });
    initialise(network.architecture(), share_of(network).map(), config.seed,
               host_values(network).data());
    return error;
  };
  const ParameterMap& map = share_of(network).map();

  EXPECT_THAT(error_with(map.input_std, 0),
              AllOf(HasSubstr("/model/input/std holds 0 in row 1"), HasSubstr("above 0")));
  EXPECT_THAT(error_with(map.input_std, -1), HasSubstr("holds -1"));
  EXPECT_THAT(error_with(map.opening_norm.variance, -1),
              AllOf(HasSubstr("/model/opening/norm/variance holds -1"), HasSubstr("at least 0")));
  EXPECT_THAT(error_with(map.closing_norm.variance, -1e-30f),
              HasSubstr("/model/closing/norm/variance"));
  EXPECT_EQ(error_with(map.closing_norm.variance, 0), "");
  EXPECT_EQ(error_with(map.closing_norm.mean, -1), "");
}

std::string bytes_of(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// Every rank trains three steps and writes the file together with the others.
std::string trained_checkpoint(const Grid& grid, const Placement& placement,
                               const ScheduleRule& schedule, const std::string& file,
                               std::unique_ptr<Backend<float>> backend = nullptr) {
  const Config config = small_config();
  RunPlan plan = make_plan(config, placement);
  plan.schedule = &schedule;
  Network network(std::move(plan), grid, 3, std::move(backend));
  TrainingStep training(network);
  const TestBatch<float> batch(network.architecture(), {3, 3, 2});
  for (int step = 0; step < 3; ++step)
    training.update(0.1, training.compute_gradient(source_of(batch)));
  CheckpointContents contents{.config = stored_config(config, network.architecture()),
                              .root_attributes = Attributes::object(),
                              .progress = to_attributes(some_progress(), 7),
                              .arrays = model_slices(network)};
  for (const ArraySlice& slice : momentum_slices(network)) contents.arrays.push_back(slice);
  write_checkpoint(file, contents, grid.world().handle());
  return bytes_of(file);
}

// Whatever the order in which micro-batches go back, and whoever owns which slice.
TEST_F(ModelFile, IsTheSameByteForByteWithAnyScheduleAndPlacement) {
  const std::string alone = trained_checkpoint(grid_of_one_, Placement({0}), schedule_rule("gpipe"),
                                               file_ + "." + std::to_string(world_.rank()));
  const int num_ranks = world_.size();
  const Placement chain = Placement::round_robin(num_ranks, num_ranks),
                  ring = Placement::round_robin(std::min(2 * num_ranks, 4), num_ranks);

  EXPECT_TRUE(trained_checkpoint(grid_, chain, schedule_rule("1f1b"), file_) == alone);
  EXPECT_TRUE(trained_checkpoint(grid_, chain, shuffled_schedule, file_) == alone);
  EXPECT_TRUE(trained_checkpoint(grid_, ring, schedule_rule("gpipe"), file_) == alone);
  EXPECT_TRUE(trained_checkpoint(grid_, ring, shuffled_schedule, file_) == alone);
}

// Arrays that the host can't read are copied out and in.
TEST_F(ModelFile, IsTheSameWhereMemoryIsApartFromTheHosts) {
  const Placement chain = Placement::round_robin(world_.size(), world_.size());
  const ScheduleRule& schedule = schedule_rule("1f1b");
  const std::string near =
      trained_checkpoint(grid_, chain, schedule, file_, make_reference_backend<float>());
  const auto apart = [] { return std::make_unique<DeferredBackend<float>>(); };

  EXPECT_TRUE(trained_checkpoint(grid_, chain, schedule, file_, apart()) == near);

  Config config = small_config();
  config.seed = 99;
  Network again(make_plan(config, world_), grid_, 3, apart());
  CheckpointContents contents;
  {
    const CheckpointReader reader(file_, world_.handle());
    load_model(reader, file_, again);
    load_momentum(reader, file_, again);
    contents = {.config = reader.config(),
                .root_attributes = Attributes::object(),
                .progress = reader.progress(),
                .arrays = model_slices(again)};
  }
  for (const ArraySlice& slice : momentum_slices(again)) contents.arrays.push_back(slice);
  const std::string copy = file_ + ".copy";
  write_checkpoint(copy, contents, world_.handle());
  EXPECT_TRUE(bytes_of(copy) == near);
}

// A rank may own several slices: its rows of an array come in pieces.
TEST_F(ModelFile, ComesBackWhereRanksOwnSeveralSlices) {
  Config config = small_config();
  const Placement ring = Placement::round_robin(std::min(2 * world_.size(), 4), world_.size());
  Network network(make_plan(config, ring), grid_, 3);
  write(network);
  Network whole(make_plan(config, self_), grid_of_one_, 3);
  config.seed = 99;
  Network again(make_plan(config, ring), grid_, 3),
      alone(make_plan(config, self_), grid_of_one_, 3);
  {
    const CheckpointReader reader(file_, world_.handle());
    load_model(reader, file_, again);
  }
  {
    const CheckpointReader reader(file_);
    load_model(reader, file_, alone);
  }
  EXPECT_EQ(num_differing(share_of(alone).values().read(), share_of(whole).values().read()), 0u);
  for (const auto& share : again.shares())
    EXPECT_EQ(num_differing_rows(share->map(), share->values().read(), share_of(whole).map(),
                                 share_of(whole).values().read()),
              0u);
}

TEST_F(ModelFile, MomentumComesBackAndMustBeFinite) {
  const Config config = small_config();
  Network network(make_plan(config, world_), grid_, 3);
  std::vector<float> written(share_of(network).map().size());
  StagedBuffer<float>& velocity = share_of(network).velocity();
  std::ranges::fill(velocity.host(), 7.0f);
  velocity.store();
  for (std::size_t i = 0; i < written.size(); ++i) written[i] = static_cast<float>(i);
  const auto write_momentum = [&] {
    write_checkpoint(file_,
                     {.config = {{"arch", "hamiltonian"}},
                      .root_attributes = {},
                      .progress = {},
                      .arrays = array_slices(share_of(network).map(), ArraySet::trainable,
                                             "/optimizer/momentum", written.data())},
                     world_.handle());
  };

  write_momentum();
  {
    const CheckpointReader reader(file_, world_.handle());
    load_momentum(reader, file_, network);
  }
  const std::span<const float> read = velocity.read();
  for (const ParameterEntry* entry : share_of(network).map().entries()) {
    for (std::size_t i = entry->offset; i < entry->offset + entry->size(); ++i)
      ASSERT_EQ(read[i], entry->trainable ? written[i] : 7.0f) << entry->name;
  }

  if (network.last_share() != nullptr)
    written[share_of(network).map().closing_bias.offset + 4] =
        std::numeric_limits<float>::infinity();
  write_momentum();
  const CheckpointReader reader(file_, world_.handle());
  EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { load_momentum(reader, file_, network); }),
              AllOf(HasSubstr(file_), HasSubstr("/optimizer/momentum/closing/bias holds inf"),
                    HasSubstr("row 4")));
  EXPECT_EQ(first_non_finite(reader), "/optimizer/momentum/closing/bias");
}

TEST_F(ModelFile, ShapesAreComparedWithoutMakingTheNetwork) {
  Config config = small_config();
  Network network(make_plan(config, world_), grid_, 3);
  write(network);
  const CheckpointReader reader(file_, world_.handle());
  const auto error_for = [&](std::vector<int> blocks, std::vector<int> widths,
                             StoredArrays arrays = StoredArrays::model) {
    Config claimed = config;
    claimed.depth.reset();
    claimed.blocks = std::move(blocks);
    claimed.widths = std::move(widths);
    return error_text(ExitStatus::bad_input,
                      [&] { check_arrays(reader, resolve(claimed), arrays); });
  };

  EXPECT_EQ(first_non_finite(reader), std::nullopt);
  EXPECT_EQ(error_for({2, 1, 1}, {4, 6, 10}), "");
  EXPECT_THAT(error_for({2, 1, 1}, {4, 6, 10}, StoredArrays::model_and_momentum),
              HasSubstr("no array /optimizer/momentum/opening/kernel"));
  EXPECT_THAT(error_for({2, 900'000, 1}, {4, 6, 10}),
              AllOf(HasSubstr(file_), HasSubstr("/model/stage_2/kernel"),
                    HasSubstr("[1800000,3,3,3,3]"), HasSubstr("[2,3,3,3,3]")));
  EXPECT_THAT(error_for({2, 1, 1}, {4, 6, 20'000}), HasSubstr("/model/stage_3/kernel"));
}

TEST_F(ModelFile, MomentumHoldsTrainableArraysOnly) {
  const Config config = small_config();
  Network network(make_plan(config, self_), grid_of_one_, 3);
  std::vector<float> values(share_of(network).map().size());
  std::vector<std::string> all, trainable;
  for (const ArraySlice& slice :
       array_slices(share_of(network).map(), ArraySet::all, "/model", values.data()))
    all.push_back(slice.path);
  for (const ArraySlice& slice :
       array_slices(share_of(network).map(), ArraySet::trainable, "/momentum", values.data()))
    trainable.push_back(slice.path);
  EXPECT_THAT(all, testing::IsSupersetOf({"/model/input/mean", "/model/opening/norm/variance",
                                          "/model/stage_2/kernel"}));
  EXPECT_THAT(
      trainable,
      testing::UnorderedElementsAre(
          "/momentum/opening/kernel", "/momentum/opening/norm/scale",
          "/momentum/opening/norm/shift", "/momentum/stage_1/kernel", "/momentum/stage_1/bias",
          "/momentum/stage_2/kernel", "/momentum/stage_2/bias", "/momentum/stage_3/kernel",
          "/momentum/stage_3/bias", "/momentum/closing/norm/scale", "/momentum/closing/norm/shift",
          "/momentum/closing/weight", "/momentum/closing/bias"));
}

}  // namespace
}  // namespace revode
