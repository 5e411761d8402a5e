#include "revode/config/run_plan.hpp"

#include <algorithm>
#include <utility>

#include <fmt/ranges.h>

#include "revode/backend/exact_sum.hpp"
#include "revode/core/error.hpp"
#include "revode/pipeline/partition.hpp"

namespace revode {
namespace {

constexpr int default_epochs = 200;
constexpr int default_epochs_synthetic = 10;
/// Of revode analyze: what differs between images differs between a few.
constexpr int images_to_analyze = 4;

ArchitectureOptions architecture_options(const Config& config) {
  const DatasetInfo data = dataset_info(config.dataset, config.image_size);
  return {.arch = config.arch,
          .depth = config.depth,
          .blocks = config.blocks,
          .widths = config.widths,
          .step_size = config.step_size,
          .grid_bits = config.grid_bits,
          .precision = precision_of(config.precision),
          .image_channels = data.image.channels,
          .image_height = data.image.height,
          .image_width = data.image.width,
          .num_classes = data.num_classes};
}

/// "1 x 6, 2 x 3, 3 x 2, 6 x 1"
std::string grids_of(int num_ranks) {
  std::vector<std::string> grids;
  for (int time_ranks = 1; time_ranks <= num_ranks; ++time_ranks)
    if (num_ranks % time_ranks == 0)
      grids.push_back(fmt::format("{} x {}", time_ranks, num_ranks / time_ranks));
  return fmt::format("{}", fmt::join(grids, ", "));
}

/// The first mini-batch, unless the user names others.
bool takes_one_mini_batch(const Config& config) {
  return config.command == Command::gradient || config.command == Command::verify ||
         config.command == Command::analyze;
}

NetworkUse use_of(const Config& config) {
  if (config.command == Command::eval) return NetworkUse::evaluation;
  return takes_one_mini_batch(config) ? NetworkUse::gradient : NetworkUse::training;
}

ProgressSetting progress_of(const Config& config) {
  if (config.progress == "on") return ProgressSetting::on;
  return config.progress == "off" ? ProgressSetting::off : ProgressSetting::automatic;
}

OnNonFinite on_nonfinite_of(const Config& config) {
  if (config.on_nonfinite == "skip") return OnNonFinite::skip;
  return config.on_nonfinite == "rewind" ? OnNonFinite::rewind : OnNonFinite::stop;
}

}  // namespace

Architecture resolve(Config& config) {
  const DatasetInfo data = dataset_info(config.dataset, config.image_size);
  if (data.is_drawn()) config.image_size = data.image.width;
  Architecture architecture(architecture_options(config));
  config.depth = architecture.depth();
  config.blocks = architecture.blocks();
  config.widths = architecture.widths();
  config.micro_batches = static_cast<int>(std::min<std::int64_t>(
      config.micro_batches.value_or(default_micro_batches), mini_batch_size(config)));
  if (config.check_reversal > 0) {
    REVODE_REQUIRE(config.grid_bits > 0,
                   "--check-reversal {}: with --grid-bits 0 states are rebuilt approximately; "
                   "expected --grid-bits 8 to 22, or --check-reversal 0",
                   config.check_reversal);
    REVODE_REQUIRE(config.activations == "reverse",
                   "--check-reversal {}: with --activations {} no state is rebuilt; expected "
                   "--activations reverse, or --check-reversal 0",
                   config.check_reversal, config.activations);
  }
  REVODE_REQUIRE(
      *config.micro_batches <= most_contributions,
      "--micro-batches {}: expected at most {}, the terms that a sum of gradients may have",
      *config.micro_batches, most_contributions);
  if (!config.epochs) config.epochs = data.is_drawn() ? default_epochs_synthetic : default_epochs;
  return architecture;
}

GridShape grid_shape(const Config& config, int num_ranks) {
  const auto refuse = [&](const std::string& found) {
    throw input_error("{}: {} ranks were started; grids of them, time x data: {}", found, num_ranks,
                      grids_of(num_ranks));
  };
  GridShape shape{num_ranks, 1};
  if (config.time_ranks && config.data_ranks) {
    shape = {*config.time_ranks, *config.data_ranks};
    if (std::int64_t{1} * shape.time_ranks * shape.data_ranks != num_ranks)
      refuse(fmt::format("--time-ranks {} --data-ranks {}", shape.time_ranks, shape.data_ranks));
  } else if (config.time_ranks) {
    if (num_ranks % *config.time_ranks != 0)
      refuse(fmt::format("--time-ranks {}", *config.time_ranks));
    shape = {*config.time_ranks, num_ranks / *config.time_ranks};
  } else if (config.data_ranks) {
    if (num_ranks % *config.data_ranks != 0)
      refuse(fmt::format("--data-ranks {}", *config.data_ranks));
    shape = {num_ranks / *config.data_ranks, *config.data_ranks};
  }
  const std::int64_t batch = mini_batch_size(config);
  REVODE_REQUIRE(
      shape.data_ranks <= batch,
      "--data-ranks {}: expected at most {}, as each replica takes a micro-batch of its own, and a "
      "mini-batch has {} image{}",
      shape.data_ranks, batch, batch, batch == 1 ? "" : "s");
  // Evaluation takes running averages.
  const char* effect = use_of(config) == NetworkUse::evaluation
                           ? ""
                           : " (batch norm then sees smaller batches, so results change)";
  REVODE_REQUIRE(shape.data_ranks <= *config.micro_batches,
                 "--data-ranks {}: each replica takes a micro-batch of its own, and a mini-batch "
                 "has {}; --micro-batches {} would do{}",
                 shape.data_ranks, *config.micro_batches, shape.data_ranks, effect);
  return shape;
}

namespace {

const ScheduleRule& schedule_of(const Config& config, int slices_a_rank) {
  if (config.schedule == "auto") return schedule_rule(slices_a_rank == 1 ? "1f1b" : "interleaved");
  const ScheduleRule& rule = schedule_rule(config.schedule);
  REVODE_REQUIRE(slices_a_rank == 1 || rule.plays_several_slices,
                 "--slices-per-rank {}: --schedule {} plays one slice a rank; interleaved, gpipe "
                 "and auto play several",
                 slices_a_rank, rule.name);
  return rule;
}

CutRule cut_rule_of(const Config& config) {
  if (config.partition == "uniform") return CutRule::uniform;
  return config.partition == "flops" ? CutRule::multiply_adds : CutRule::measured;
}

/// config: resolved to `architecture`. is_open: costs that are measured may change cut and
/// placement.
RunPlan plan_of(Config config, Architecture architecture, Placement placement, int data_ranks,
                bool is_open) {
  const int slices_a_rank = placement.num_slices() / placement.num_ranks();
  const ScheduleRule& schedule = schedule_of(config, slices_a_rank);
  is_open = is_open && use_of(config) == NetworkUse::training;
  const CutRule cut_rule = is_open ? cut_rule_of(config) : CutRule::multiply_adds;
  std::vector<LayerCosts> costs{cut_rule == CutRule::uniform ? uniform_costs(architecture)
                                                             : multiply_adds(architecture)};
  std::vector<BlockRange> slices = partition(architecture, placement, costs);
  if (takes_one_mini_batch(config) && !config.given("samples"))
    config.samples = fmt::format(
        "0:{}", config.command == Command::analyze ? images_to_analyze : config.batch_size);
  const bool stores = config.activations == "store";
  const bool reads_train = config.command == Command::verify || config.split == "train";
  return {.architecture = std::move(architecture),
          .placement = std::move(placement),
          .data_ranks = data_ranks,
          .slices = std::move(slices),
          .schedule = &schedule,
          .cut_rule = cut_rule,
          .costs = std::move(costs),
          .costs_are_times = false,
          .chooses_schedule = is_open && config.schedule == "auto",
          .chooses_slices = is_open && config.schedule == "auto" && !config.slices_per_rank,
          .choice = {},
          .memory_limit = parse_bytes(config.memory_limit),
          .activations = stores ? Activations::store : Activations::reverse,
          .use = use_of(config),
          .num_micro_batches = *config.micro_batches,
          .split = reads_train ? Split::train : Split::test,
          .samples = parse_sample_range(config.samples),
          .progress = progress_of(config),
          .on_nonfinite = on_nonfinite_of(config),
          .max_rewinds = config.max_rewinds.value_or(default_max_rewinds),
          .time_limit_seconds = parse_time_limit(config.time_limit),
          .config = std::move(config)};
}

}  // namespace

RunPlan make_plan(Config config, Placement placement, int data_ranks) {
  Architecture architecture = resolve(config);
  return plan_of(std::move(config), std::move(architecture), std::move(placement), data_ranks,
                 false);
}

RunPlan make_plan(Config config, int num_ranks) {
  Architecture architecture = resolve(config);
  const auto [time_ranks, data_ranks] = grid_shape(config, num_ranks);
  const int slices_a_rank = config.slices_per_rank.value_or(1);
  const int num_blocks = architecture.num_blocks();
  REVODE_REQUIRE(slices_a_rank <= num_blocks,
                 "--slices-per-rank {}: the network has {} blocks and every slice needs one",
                 slices_a_rank, num_blocks);
  return plan_of(std::move(config), std::move(architecture),
                 Placement::round_robin(slices_a_rank * time_ranks, time_ranks), data_ranks, true);
}

std::string model_name(const Config& config) {
  return fmt::format("{}-{}-{}", config.arch, depth_of(architecture_options(config)),
                     config.dataset);
}

}  // namespace revode
