// A session is all that training computes with, and follows from a plan and a checkpoint.
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "revode/checkpoint/checkpoint_writer.hpp"
#include "revode/train/session.hpp"

#include "support/temporary_folder.hpp"
#include "train/small_network.hpp"

namespace revode {
namespace {

class SessionTest : public testing::Test {
 protected:
  SessionTest() {
    if (world_.is_root()) owner_ = std::make_unique<TemporaryFolder>();
    file_ = world_.broadcast(owner_ ? (*owner_ / "checkpoint-2.h5").string() : "", 0);
  }
  ~SessionTest() override { world_.barrier(); }

  /// 100 images, 12 steps an epoch.
  RunPlan plan() const {
    Config config = small_config();
    config.train_fraction = 0.0125;
    config.augment = true;
    return make_plan(config, world_);
  }

  static void train(Session& session, std::int64_t first_step, std::int64_t last_step) {
    for (std::int64_t step = first_step; step < last_step; ++step) {
      const MiniBatchSource source =
          session.mini_batch(step / session.steps_per_epoch(), step % session.steps_per_epoch());
      session.training().update(0.1, session.training().compute_gradient(source));
    }
  }

  /// Writes the file; returns its bytes.
  std::string save(Session& session, std::int64_t step) const {
    RunProgress progress;
    progress.epoch = step / session.steps_per_epoch();
    progress.step = step;
    progress.samples_seen = step * session.config().batch_size;
    write_checkpoint(file_, session.contents(progress), world_.handle());
    std::ifstream stream(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  StartPoint from_file(StartPoint::Kind kind) const {
    StartPoint start;
    start.kind = kind;
    start.file = file_;
    return start;
  }

  Communicator world_{MPI_COMM_WORLD};
  std::unique_ptr<TemporaryFolder> owner_;
  std::string file_;
};

TEST_F(SessionTest, CanBeThrownAwayAndMadeAgain) {
  auto session = std::make_unique<Session>(plan(), StartPoint{}, world_);
  ASSERT_GT(session->steps_per_epoch(), 1);
  const std::int64_t last = 2 * session->steps_per_epoch() + 1;
  train(*session, 0, last - 2);
  train(*session, last - 2, last);
  const std::string uninterrupted = save(*session, last);

  session = std::make_unique<Session>(plan(), StartPoint{}, world_);
  train(*session, 0, last - 2);
  save(*session, last - 2);
  session.reset();
  Session again(plan(), from_file(StartPoint::Kind::resume), world_);
  EXPECT_EQ(again.start_progress().step, last - 2);
  train(again, last - 2, last);

  EXPECT_TRUE(save(again, last) == uninterrupted);
}

TEST_F(SessionTest, GoesBackToACheckpointAsIfItHadBeenMadeFromIt) {
  Session session(plan(), StartPoint{}, world_);
  train(session, 0, 2);
  save(session, 2);
  train(session, 2, 4);
  const std::string straight = save(session, 4);
  train(session, 4, 5);
  save(session, 2);  // its weights are those of step 5

  EXPECT_EQ(session.go_back(file_).step, 2);
  train(session, 2, 4);
  EXPECT_FALSE(save(session, 4) == straight);

  Session other(plan(), StartPoint{}, world_);
  train(other, 0, 2);
  save(other, 2);
  EXPECT_EQ(session.go_back(file_).step, 2);
  train(session, 2, 4);
  EXPECT_TRUE(save(session, 4) == straight);
}

TEST_F(SessionTest, StartsFromTheWeightsOfAFileAtTheBeginning) {
  Session trained(plan(), StartPoint{}, world_);
  train(trained, 0, 2);
  save(trained, 2);

  Session session(plan(), from_file(StartPoint::Kind::weights), world_);

  EXPECT_EQ(session.start_progress().step, 0);
  for (std::size_t s = 0; s < session.network().shares().size(); ++s) {
    Share<float>& mine = *session.network().shares()[s];
    EXPECT_EQ(num_differing(mine.values().read(), trained.network().shares()[s]->values().read()),
              0u);
    for (const float velocity : mine.velocity().read()) ASSERT_EQ(velocity, 0);
  }
}

TEST_F(SessionTest, NamesTheFirstArrayThatIsNotFinite) {
  Session session(plan(), StartPoint{}, world_);
  EXPECT_EQ(session.first_non_finite(), std::nullopt);

  Share<float>& share = *session.network().shares().back();
  share.velocity().host().back() = std::numeric_limits<float>::infinity();
  share.velocity().store();

  const auto found = session.first_non_finite();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->find("/optimizer/momentum/"), 0u) << *found;
}

}  // namespace
}  // namespace revode
