#include "revode/config/run_plan.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "revode/backend/exact_sum.hpp"
#include "revode/core/error.hpp"
#include "revode/pipeline/partition.hpp"

namespace revode {
namespace {

constexpr int default_epochs = 200;
constexpr int default_epochs_synthetic = 10;

Architecture make_architecture(const Config& config) {
  const DatasetInfo& data = dataset_info(config.dataset);
  return Architecture({.arch = config.arch,
                       .depth = config.depth,
                       .blocks = config.blocks,
                       .widths = config.widths,
                       .step_size = config.step_size,
                       .grid_bits = config.grid_bits,
                       .image_channels = data.image.channels,
                       .image_height = data.image.height,
                       .image_width = data.image.width,
                       .num_classes = data.num_classes});
}

void check_ranks(const Config& config, int num_ranks) {
  REVODE_REQUIRE(config.time_ranks.value_or(num_ranks) == num_ranks,
                 "--time-ranks {} does not fit the {} ranks that were started: every rank is a "
                 "time rank in this version, "
                 "so give {} or leave it out",
                 config.time_ranks.value_or(0), num_ranks, num_ranks);
}

/// The first mini-batch, unless the user names others.
bool takes_one_mini_batch(const Config& config) {
  return config.command == Command::gradient || config.command == Command::verify;
}

NetworkUse use_of(const Config& config) {
  if (config.command == Command::eval) return NetworkUse::evaluation;
  return takes_one_mini_batch(config) ? NetworkUse::gradient : NetworkUse::training;
}

ProgressSetting progress_of(const Config& config) {
  if (config.progress == "on") return ProgressSetting::on;
  return config.progress == "off" ? ProgressSetting::off : ProgressSetting::automatic;
}

}  // namespace

Architecture resolve(Config& config) {
  Architecture architecture = make_architecture(config);
  config.depth = architecture.depth();
  config.blocks = architecture.blocks();
  config.widths = architecture.widths();
  config.micro_batches = static_cast<int>(std::min<std::int64_t>(
      config.micro_batches.value_or(default_micro_batches), mini_batch_size(config)));
  REVODE_REQUIRE(
      *config.micro_batches <= most_contributions,
      "--micro-batches {}: expected at most {}, the terms that a sum of gradients may have",
      *config.micro_batches, most_contributions);
  if (!config.epochs)
    config.epochs = config.dataset == "synthetic" ? default_epochs_synthetic : default_epochs;
  return architecture;
}

RunPlan make_plan(Config config, Placement placement) {
  Architecture architecture = resolve(config);
  const ScheduleRule& schedule = schedule_rule(config.schedule);
  check_ranks(config, placement.num_ranks());
  std::vector<BlockRange> slices = partition(architecture, placement.num_slices());
  if (takes_one_mini_batch(config) && !config.given("samples"))
    config.samples = fmt::format("0:{}", config.batch_size);
  const bool stores = config.activations == "store";
  const bool reads_train = config.command == Command::verify || config.split == "train";
  return {.architecture = std::move(architecture),
          .placement = std::move(placement),
          .slices = std::move(slices),
          .schedule = &schedule,
          .activations = stores ? Activations::store : Activations::reverse,
          .use = use_of(config),
          .num_micro_batches = *config.micro_batches,
          .split = reads_train ? Split::train : Split::test,
          .samples = parse_sample_range(config.samples),
          .progress = progress_of(config),
          .time_limit_seconds = parse_time_limit(config.time_limit),
          .config = std::move(config)};
}

RunPlan make_plan(Config config, int num_ranks) {
  return make_plan(std::move(config), Placement::round_robin(num_ranks, num_ranks));
}

std::string model_name(const Config& config) {
  return fmt::format("{}-{}-{}", config.arch, make_architecture(config).depth(), config.dataset);
}

}  // namespace revode
