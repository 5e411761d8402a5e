// A model and the state of its run through a checkpoint, for any number of ranks.
#include <limits>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "revode/train/model_file.hpp"

#include "support/error_text.hpp"
#include "support/temporary_folder.hpp"
#include "train/small_network.hpp"

namespace revode {
namespace {

using testing::AllOf;
using testing::HasSubstr;

RunProgress some_progress() {
  RunProgress progress;
  progress.epoch = 3;
  progress.step = 1'234'567'890'123;
  progress.samples_seen = 98'765;
  progress.learning_rate = 0.1 * 0.1;  // no short decimal
  progress.best_accuracy = 1.0 / 3;
  progress.epoch_loss_sum = 1e-300;
  progress.epoch_correct = 17;
  progress.epoch_samples = 80;
  progress.epoch_regularization_sum = 2.0 / 7;
  progress.range = {.out_of_range = 5, .rounded_to_zero = 9'000'000'000};
  return progress;
}

void expect_equal(const RunProgress& a, const RunProgress& b) {
  EXPECT_EQ(a.epoch, b.epoch);
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.samples_seen, b.samples_seen);
  EXPECT_EQ(a.learning_rate, b.learning_rate);
  EXPECT_EQ(a.best_accuracy, b.best_accuracy);
  EXPECT_EQ(a.epoch_loss_sum, b.epoch_loss_sum);
  EXPECT_EQ(a.epoch_correct, b.epoch_correct);
  EXPECT_EQ(a.epoch_samples, b.epoch_samples);
  EXPECT_EQ(a.epoch_regularization_sum, b.epoch_regularization_sum);
  EXPECT_EQ(a.range.out_of_range, b.range.out_of_range);
  EXPECT_EQ(a.range.rounded_to_zero, b.range.rounded_to_zero);
}

TEST(RunProgress, ComesBackFromItsAttributes) {
  const Attributes attributes = to_attributes(some_progress(), 7);
  expect_equal(from_attributes(attributes, "file"), some_progress());
  EXPECT_EQ(attributes.at("seed"), 7);
}

TEST(RunProgress, EveryMissingNumberIsNamed) {
  const Attributes whole = to_attributes(some_progress(), 7);
  for (const auto& item : whole.items()) {
    const std::string& key = item.key();
    if (key == "seed") continue;  // the config's counts
    Attributes without = whole;
    without.erase(key);
    EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { from_attributes(without, "some.h5"); }),
                AllOf(HasSubstr("some.h5"), HasSubstr("'" + key + "'")));
    without[key] = "text";
    EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { from_attributes(without, "some.h5"); }),
                HasSubstr("'" + key + "'"));
  }
}

class ModelFile : public testing::Test {
 protected:
  ModelFile() {
    if (world_.is_root()) owner_ = std::make_unique<TemporaryFolder>();
    file_ = world_.broadcast(owner_ ? (*owner_ / "model.h5").string() : "", 0);
  }
  ~ModelFile() override { world_.barrier(); }

  void write(Network& network) {
    write_checkpoint(
        file_,
        {.config = stored_config(small_config(), network.architecture()),
         .root_attributes = Attributes::object(),
         .progress = to_attributes(some_progress(), 7),
         .arrays = array_slices(network.map(), ArraySet::all, "/model", network.values().data())},
        world_.handle());
  }

  Communicator world_{MPI_COMM_WORLD}, self_{MPI_COMM_SELF};
  std::unique_ptr<TemporaryFolder> owner_;
  std::string file_;
};

TEST_F(ModelFile, ComesBackOnAnyNumberOfRanks) {
  Config config = small_config();
  Network network(config, make_architecture(config), world_, 3);
  write(network);
  config.seed = 99;
  Network again(config, make_architecture(config), world_, 3);
  Network whole(config, make_architecture(config), self_, 3);
  EXPECT_NE(num_differing_rows(again.map(), again.values(), network.map(), network.values()), 0u);
  {
    const CheckpointReader reader(file_, world_.handle());
    load_model(reader, file_, again);
    expect_equal(from_attributes(reader.progress(), file_), some_progress());
  }
  {
    const CheckpointReader reader(file_);
    load_model(reader, file_, whole);
  }
  EXPECT_EQ(num_differing_rows(again.map(), again.values(), network.map(), network.values()), 0u);
  EXPECT_EQ(num_differing_rows(network.map(), network.values(), whole.map(), whole.values()), 0u);
}

TEST_F(ModelFile, WeightsThatAreNotFiniteAreRefusedByEveryRank) {
  const Config config = small_config();
  Network network(config, make_architecture(config), world_, 3);
  if (network.slice().is_last())
    network.values()[network.map().closing_weight.offset + 10 * 7] =
        std::numeric_limits<float>::quiet_NaN();
  write(network);
  const CheckpointReader reader(file_, world_.handle());
  EXPECT_THAT(error_text(ExitStatus::bad_input, [&] { load_model(reader, file_, network); }),
              AllOf(HasSubstr(file_), HasSubstr("/model/closing/weight"), HasSubstr("row 7")));
}

TEST_F(ModelFile, MomentumHoldsTrainableArraysOnly) {
  const Config config = small_config();
  Network network(config, make_architecture(config), self_, 3);
  std::vector<float> values(network.map().size());
  std::vector<std::string> all, trainable;
  for (const ArraySlice& slice :
       array_slices(network.map(), ArraySet::all, "/model", values.data()))
    all.push_back(slice.path);
  for (const ArraySlice& slice :
       array_slices(network.map(), ArraySet::trainable, "/momentum", values.data()))
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
