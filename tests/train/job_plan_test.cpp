// Plans of jobs that are not there, from costs that are made up.
#include "revode/train/job_plan.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "revode/files/json_text.hpp"
#include "revode/train/machine_file.hpp"
#include "revode/train/run_forecast.hpp"

#include "support/error_text.hpp"
#include "support/temporary_folder.hpp"

namespace revode {
namespace {

class JobPlanTest : public testing::Test {
 protected:
  Config config_of(std::vector<std::string> words) const {
    words.insert(words.begin(), {"revode", "plan", "--ranks", "1", "--machine", file_.string()});
    std::vector<const char*> arguments;
    for (const std::string& word : words) arguments.push_back(word.c_str());
    return parse_command_line(static_cast<int>(arguments.size()), arguments.data());
  }
  /// A block of one image takes 1 ms forward and 3 ms back, everything else nothing; each further
  /// image as much as the first, but for `startup` of a micro-batch.
  Machine machine_with(
      double startup_seconds = 0, double message_value_seconds = 0,
      const nlohmann::ordered_json& more = nlohmann::ordered_json::object()) const {
    Config config = config_of({"--blocks", "4,4,4"});
    const Architecture architecture = resolve(config);
    const auto timed = [&](int images) {
      LayerCosts costs = uniform_costs(architecture);
      for (SweepCost& block : costs.blocks) {
        block.forward = images * 1'000'000 + static_cast<std::int64_t>(1e9 * startup_seconds);
        block.back = 3 * block.forward;
      }
      costs.message_value = 1e9 * message_value_seconds;
      costs.copied_value = 10 * costs.message_value;
      return TimedMicroBatch{images, {costs}};
    };
    nlohmann::ordered_json machine{{"format", "revode-machine"}};
    machine.update(more);
    machine["ranks"] = machine_ranks(architecture, {timed(1), timed(64)});
    std::ofstream(file_) << to_text(machine);
    return Machine(file_.string());
  }

  TemporaryFolder folder_;
  std::filesystem::path file_ = folder_.path() / "machine.json";
};

TEST_F(JobPlanTest, OneRankWorksAllTheTime) {
  const JobPlan job =
      plan_job(config_of({"--blocks", "4,4,4", "--batch-size", "32", "--micro-batches", "8"}), 1,
               machine_with());

  EXPECT_NEAR(job.step_seconds(), 32 * 12 * 4e-3, 1e-9);
  EXPECT_NEAR(job.images_per_second(), 1 / (12 * 4e-3), 1e-6);
  EXPECT_NEAR(job.bubble(), 0, 1e-12);
  EXPECT_EQ(job.message_bytes(0, 0), 0);
  EXPECT_EQ(job.ranks.front().bytes_of_sums, 0);
}

TEST_F(JobPlanTest, TimeRanksIdleAsTheFormulaSays) {
  const JobPlan job = plan_job(config_of({"--blocks", "4,4,4", "--batch-size", "32",
                                          "--micro-batches", "8", "--schedule", "gpipe"}),
                               4, machine_with());

  EXPECT_NEAR(job.bubble(), 3.0 / (8 + 3), 1e-12);
  EXPECT_NEAR(job.step_seconds(), 32 * 3 * 4e-3 * 11 / 8, 1e-9);
  for (const JobPlan::Rank& rank : job.ranks) EXPECT_EQ(rank.slices.size(), 1u);
}

// The first cut lies in stage 1, whose states are 2 x 16 x 32 x 32 floats.
TEST_F(JobPlanTest, MessagesAreCountedByteForByte) {
  const JobPlan job =
      plan_job(config_of({"--blocks", "4,4,4", "--batch-size", "30", "--micro-batches", "4",
                          "--time-ranks", "6", "--schedule", "1f1b"}),
               12, machine_with());
  const std::int64_t state = job.plan.architecture.stages().front().channels * 2 * 32 * 32 * 4;

  // Micro-batches of 8, 8, 7, 7 images: two with 15 for each replica. Each message has a digest.
  constexpr std::int64_t digest = 8;
  EXPECT_EQ(job.message_bytes(0, 0), 15 * state + 2 * digest);
  EXPECT_EQ(job.message_bytes(0, 1), 15 * state + 2 * digest);
  const std::int64_t between = job.message_bytes(1, 0);  // the cut behind ends stage 1
  EXPECT_EQ(between, 15 * (2 * state + state / 2) + 2 * 3 * digest);
}

TEST_F(JobPlanTest, ReplicasShareTheMicroBatchesAndAddTheirGradients) {
  const Machine machine = machine_with(0, 1e-9);
  const std::vector<std::string> words{"--blocks",        "4,4,4", "--batch-size", "32",
                                       "--micro-batches", "8",     "--time-ranks", "1"};
  const JobPlan job = plan_job(config_of(words), 4, machine);

  EXPECT_EQ(job.plan.micro_batches_of_a_replica(), 2);
  EXPECT_NEAR(job.sweep_seconds, 8 * 12 * 4e-3, 1e-9);
  // A ring: 3/4 of 8-byte values twice, each sent and received as two floats.
  const double values = static_cast<double>(job.ranks.front().bytes_of_sums) / 8;
  EXPECT_NEAR(job.sum_seconds, values * 2 * 2 * 2 * 3 / 4 * 1e-8, 1e-12);
  EXPECT_GT(values, 0);
}

TEST_F(JobPlanTest, SumsTakeWhatTheMachineFileSaysOfThem) {
  const Machine machine = machine_with(0, 1e-9, {{"summed_value_seconds", 3e-7}});
  const JobPlan job = plan_job(config_of({"--blocks", "4,4,4", "--batch-size", "32",
                                          "--micro-batches", "8", "--time-ranks", "1"}),
                               4, machine);

  const double values = static_cast<double>(job.ranks.front().bytes_of_sums) / 8;
  EXPECT_NEAR(job.sum_seconds, values * 2 * 3 / 4 * 3e-7, 1e-12);
}

// Going back ends at the opening: the rank that holds the last blocks, which have most weights, is
// done before.
TEST_F(JobPlanTest, ATimeRankAddsItsGradientsWhileOthersStillSweep) {
  const Machine machine = machine_with(0, 1e-9);
  const JobPlan job =
      plan_job(config_of({"--blocks", "4,4,4", "--batch-size", "32", "--micro-batches", "8",
                          "--time-ranks", "2", "--schedule", "1f1b"}),
               4, machine);
  const auto sums_of = [&](int rank) {  // a ring of two
    return static_cast<double>(job.ranks[rank].bytes_of_sums) / 8 * 2 * 2 * 2 * 1 / 2 * 1e-8;
  };

  const double earlier = job.ranks[0].sweep_end - job.ranks[1].sweep_end;
  EXPECT_EQ(job.ranks[0].sweep_end, job.sweep_seconds);
  EXPECT_NEAR(earlier, 4 * 6 * 3e-3, 1e-3);  // 4 images through 6 blocks, and a message
  EXPECT_GT(sums_of(1), sums_of(0));
  EXPECT_NEAR(job.sum_seconds, std::max(sums_of(0), sums_of(1) - earlier), 1e-9);
  EXPECT_LT(job.sum_seconds, sums_of(1));
}

// Two time ranks, one micro-batch: each rank works 32 x 6 x 4 ms, one after the other.
TEST_F(JobPlanTest, MessagesBetweenNodesAreCopied) {
  const Machine machine = machine_with(0, 1e-9, {{"processors", 4}, {"threads", 2}});
  const std::vector<std::string> words{"--blocks",        "4,4,4", "--batch-size", "32",
                                       "--micro-batches", "1",     "--schedule",   "gpipe"};
  const auto messages_of = [&](const std::string& ranks_per_node) {
    std::vector<std::string> all = words;
    if (!ranks_per_node.empty()) all.insert(all.end(), {"--ranks-per-node", ranks_per_node});
    return plan_job(config_of(all), 2, machine).sweep_seconds - 32 * 12 * 4e-3;
  };
  // A state forward, a state and its adjoint back, each a cost to both ranks; cut in stage 2.
  const double values = 2 * 3 * 32 * 2 * 32 * 16 * 16;

  EXPECT_NEAR(messages_of(""), values * 1e-9, 1e-9);  // room for two ranks on a node
  EXPECT_NEAR(messages_of("2"), values * 1e-9, 1e-9);
  EXPECT_NEAR(messages_of("1"), values * 1e-8, 1e-9);
}

TEST_F(JobPlanTest, ANodeHasAsManyRanksAsDevices) {
  const auto ranks_per_node = [&](const nlohmann::ordered_json& says) {
    const Machine machine = machine_with(0, 1e-9, says);
    return plan_job(config_of({"--blocks", "4,4,4"}), 2, machine).plan.nodes.ranks_per_node;
  };
  const nlohmann::ordered_json processors{{"processors", 16}, {"threads", 4}};
  nlohmann::ordered_json devices = processors;
  devices["devices"] = 8;

  EXPECT_EQ(ranks_per_node(processors), 4);
  EXPECT_EQ(ranks_per_node(devices), 8);
}

TEST_F(JobPlanTest, ANetworkMovesMessagesBesideTheRanks) {
  const nlohmann::ordered_json network{{"latency_seconds", 1e-3}, {"bytes_per_second", 1e9}};
  const Machine machine = machine_with(0, 1e-9, {{"network", network}});
  const std::vector<std::string> words{"--blocks",         "4,4,4", "--batch-size", "32",
                                       "--micro-batches",  "1",     "--schedule",   "gpipe",
                                       "--ranks-per-node", "1"};
  const JobPlan job = plan_job(config_of(words), 2, machine);

  // The state forward; the state and the adjoint back at the same time.
  const double state = 32 * 2 * 32 * 16 * 16 * 4 / 1e9;
  EXPECT_NEAR(job.sweep_seconds, 32 * 12 * 4e-3 + 2 * 1e-3 + 3 * state, 1e-9);

  std::vector<std::string> replicas = words;
  replicas[5] = "2";
  replicas.insert(replicas.end(), {"--data-ranks", "2"});
  const JobPlan sums = plan_job(config_of(replicas), 2, machine);
  const auto bytes = static_cast<double>(sums.ranks.front().bytes_of_sums);
  // While the sweep goes on, but for the last bucket.
  const double bucket = 8 << 18;
  EXPECT_GT(bytes, bucket);
  EXPECT_NEAR(sums.sum_seconds, 2 * 1e-3 + bucket / 1e9, 1e-9);

  const Machine gpus = machine_with(0, 1e-9, {{"network", network}, {"devices", 1}});
  EXPECT_NEAR(plan_job(config_of(replicas), 2, gpus).sum_seconds, 2 * 1e-3 + bytes / 1e9, 1e-9);
}

// Sums that take longer than the last work begin with its first bucket.
TEST_F(JobPlanTest, ASlowNetworkAddsFromTheFirstBucketOn) {
  const nlohmann::ordered_json network{{"latency_seconds", 0}, {"bytes_per_second", 1e6}};
  const Machine machine = machine_with(0, 1e-9, {{"network", network}});
  const JobPlan job =
      plan_job(config_of({"--blocks", "4,4,4", "--batch-size", "32", "--micro-batches", "8",
                          "--data-ranks", "2", "--ranks-per-node", "1"}),
               2, machine);
  const auto bytes = static_cast<double>(job.ranks.front().bytes_of_sums);
  const double last_work = 4 * 12 * 3e-3;  // images, blocks

  EXPECT_NEAR(job.sum_seconds, bytes / 1e6 - last_work * (1 - (8 << 18) / bytes), 1e-9);
}

TEST_F(JobPlanTest, ANodeSendsOneMessageAfterTheOther) {
  const nlohmann::ordered_json network{{"latency_seconds", 0}, {"bytes_per_second", 1e5}};
  const JobPlan job =
      plan_job(config_of({"--blocks", "4,4,4", "--batch-size", "32", "--micro-batches", "8",
                          "--schedule", "gpipe", "--ranks-per-node", "1"}),
               2, machine_with(0, 1e-9, {{"network", network}}));

  // Of each micro-batch the state forward; then the state and the adjoint back.
  const double message = 4 * 2 * 32 * 16 * 16 * 4 / 1e5, work = 32 * 12 * 4e-3;
  EXPECT_GE(job.sweep_seconds, 8 * 3 * message);
  EXPECT_LE(job.sweep_seconds, 8 * 3 * message + work);
}

// Replicas of three ranks on nodes of four: every pair of neighbours is on two nodes somewhere.
TEST_F(JobPlanTest, TheReplicaThatIsSpreadMostCounts) {
  const Machine machine = machine_with(0, 1e-9);
  const auto step = [&](const std::string& ranks_per_node) {
    return plan_job(config_of({"--blocks", "4,4,4", "--batch-size", "32", "--micro-batches", "8",
                               "--time-ranks", "3", "--ranks-per-node", ranks_per_node}),
                    12, machine)
        .sweep_seconds;
  };
  EXPECT_EQ(step("4"), step("1"));
  EXPECT_EQ(step("3"), step("12"));
  EXPECT_LT(step("3"), step("1"));
}

// What is left out for its least time is never better than what is listed.
TEST_F(JobPlanTest, TheSearchFindsTheBestOfAllGrids) {
  const Machine machine = machine_with(2e-3, 1e-10);
  const Config config = config_of({"--blocks", "4,4,4", "--batch-size", "32"});
  constexpr int num_ranks = 8;
  double best = std::numeric_limits<double>::infinity();
  for (const int time_ranks : {1, 2, 4, 8})
    for (int micro_batches = num_ranks / time_ranks; micro_batches <= 32; micro_batches *= 2) {
      Config one = config;
      one.time_ranks = time_ranks;
      one.data_ranks = num_ranks / time_ranks;
      one.micro_batches = micro_batches;
      best = std::min(best, plan_job(one, num_ranks, machine).step_seconds());
    }

  const std::vector<JobPlan> found = best_jobs(config, num_ranks, machine, 3);

  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found.front().step_seconds(), best);
  EXPECT_TRUE(std::ranges::is_sorted(found, {}, &JobPlan::step_seconds));
}

TEST_F(JobPlanTest, TheSearchHeedsTheMemoryLimit) {
  const Machine machine = machine_with();
  const Config config = config_of({"--blocks", "4,4,4", "--batch-size", "32"});
  const double free = best_jobs(config, 4, machine, 1).front().most_memory();
  Config limited = config;
  limited.memory_limit = fmt::format("{}", static_cast<std::int64_t>(free) - 1);

  EXPECT_LT(best_jobs(limited, 4, machine, 1).front().most_memory(), free);
  limited.memory_limit = "1M";
  EXPECT_NE(error_text(ExitStatus::bad_input, [&] { best_jobs(limited, 4, machine, 1); })
                .find("--memory-limit 1M"),
            std::string::npos);
}

TEST_F(JobPlanTest, ImpossibleGridsAreRefusedAsARunWould) {
  const Machine machine = machine_with();
  const std::string text = error_text(ExitStatus::bad_input, [&] {
    best_jobs(config_of({"--blocks", "4,4,4", "--time-ranks", "3"}), 4, machine, 1);
  });
  EXPECT_NE(text.find("--time-ranks 3"), std::string::npos) << text;
}

TEST_F(JobPlanTest, EpochsHaveThePublishedImages) {
  const Machine machine = machine_with();
  const auto run_with = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {"--blocks", "4,4,4", "--dataset", "cifar10", "--train-fraction",
                                 "0.1", "--epochs", "3"});
    return forecast_run(plan_job(config_of(words), 1, machine));
  };
  const RunForecast run = run_with({});
  EXPECT_EQ(run.steps_an_epoch, 50);
  EXPECT_EQ(run.steps, 150);
  EXPECT_EQ(run_with({"--steps", "70"}).steps, 70);

  EXPECT_EQ(run.num_evaluations, 3);
  EXPECT_EQ(run.num_saves, 3);
  EXPECT_EQ(run_with({"--steps", "70"}).num_evaluations, 2);
  EXPECT_EQ(run_with({"--eval-every", "2"}).num_evaluations, 2);
  EXPECT_EQ(run_with({"--eval-every", "0"}).num_evaluations, 1);
  EXPECT_EQ(run_with({"--checkpoint-every", "40"}).num_saves, 4);
  EXPECT_EQ(run_with({"--steps", "0"}).seconds(), 0);
}

TEST_F(JobPlanTest, EvaluationsAreForwardSweepsOfTheTestImages) {
  const auto seconds_on = [&](int ranks, std::vector<std::string> words) {
    words.insert(words.begin(), {"--blocks", "4,4,4", "--dataset", "cifar10", "--batch-size", "80",
                                 "--micro-batches", "4", "--epochs", "1"});
    const JobPlan job = plan_job(config_of(words), ranks, machine_with());
    const RunForecast run = forecast_run(job);
    EXPECT_NEAR(run.seconds(), 625 * job.step_seconds() + run.evaluation_seconds, 1e-6);
    return run.evaluation_seconds;
  };
  // 500 micro-batches of 20 images through 12 blocks, a quarter of them on each rank.
  EXPECT_NEAR(seconds_on(1, {}), 10000 * 12e-3, 1e-6);
  EXPECT_NEAR(seconds_on(4, {"--schedule", "1f1b"}), (500 + 3) * 20 * 3e-3, 1e-6);
  EXPECT_NEAR(seconds_on(4, {"--data-ranks", "4"}), 10000 / 4 * 12e-3, 1e-6);
  // Two slices a rank make as much work; how long the pipeline takes to fill is all that differs.
  EXPECT_NEAR(seconds_on(2, {"--schedule", "interleaved", "--slices-per-rank", "2"}),
              500 * 20 * 6e-3, 20 * 6e-3);
}

TEST_F(JobPlanTest, SavesStopTrainingForACopyAndReachTheDiskBehindIt) {
  const auto words = {"--blocks", "4,4,4", "--epochs", "2"};
  const JobPlan job = plan_job(config_of({words.begin(), words.end()}), 1,
                               machine_with(0, 1e-9, {{"checkpoint_bytes_per_second", 1e6}}));
  const RunForecast run = forecast_run(job);
  const auto parameters = static_cast<double>(job.plan.architecture.num_parameters());
  EXPECT_NEAR(static_cast<double>(run.checkpoint_bytes), 2 * 4 * parameters, 1);
  // Running averages are copied too.
  EXPECT_NEAR(run.save_seconds, 2 * static_cast<double>(job.ranks.front().num_parameters) * 10e-9,
              1e-12);
  EXPECT_GT(run.save_seconds, 2 * parameters * 10e-9);
  EXPECT_NEAR(run.write_seconds, 8 * parameters / 1e6, 1e-3);
  EXPECT_EQ(forecast_run(plan_job(config_of({words.begin(), words.end()}), 1, machine_with()))
                .write_seconds,
            0);
}

}  // namespace
}  // namespace revode
