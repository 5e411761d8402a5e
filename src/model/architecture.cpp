#include "revode/model/architecture.hpp"

#include <algorithm>
#include <numeric>

#include <fmt/ranges.h>

#include "revode/core/error.hpp"

#include "model/architectures/architectures.hpp"

namespace revode {
namespace {

constexpr const ArchitectureRule* rules[] = {
    &architectures::hamiltonian,
    &architectures::leapfrog,
    &architectures::midpoint,
};

constexpr int default_depth = 74;

std::int64_t sum(const std::vector<int>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

// What can't be meant is refused before any array or loop of that length is made. Within these
// bounds every count and cost fits its integer: 10^11 parameters cost 16 multiply-adds a pixel of
// at most 10^6 (block_cost), below 2^63.
constexpr std::int64_t max_blocks = 1'000'000;
constexpr int max_width = 1'000'000;
constexpr double max_parameters = 1e11;  ///< 400 GB of weights

/// Depths from here on get 128 channels in the last stage by default, smaller ones 112.
constexpr int wide_depth = 100;
constexpr int default_num_stages = 3;

/// Blocks cut evenly over the stages with the remainder to the earlier ones, then one block moved
/// from the last to the first.
std::vector<int> blocks_of_depth(const ArchitectureRule& rule, int depth, int num_stages) {
  const int per_block = rule.convolutions_per_block;
  const int smallest = 2 + per_block * (num_stages == 1 ? 1 : 2 * num_stages);
  REVODE_REQUIRE(depth >= smallest,
                 "--depth {}: too small for {} with {} stages, since every stage needs a block; "
                 "the smallest is {}",
                 depth, rule.name, num_stages, smallest);
  const std::int64_t largest = 2 + per_block * max_blocks;
  REVODE_REQUIRE(depth <= largest,
                 "--depth {}: that is {} {} blocks, expected a depth of at most {} ({} blocks)",
                 depth, (depth - 2) / per_block, rule.name, largest, max_blocks);
  const int below = depth - (depth - 2) % per_block;
  REVODE_REQUIRE(below == depth,
                 "--depth {}: a {} block counts for {} layers, so depth must be 2 + {} * blocks; "
                 "the nearest are {} and {}",
                 depth, rule.name, per_block, per_block, below, below + per_block);
  const int total = (depth - 2) / per_block;
  std::vector<int> blocks(num_stages, total / num_stages);
  for (int k = 0; k < total % num_stages; ++k) ++blocks[k];
  if (num_stages > 1) {
    ++blocks.front();
    --blocks.back();
  }
  return blocks;
}

void check_num_stages(std::string_view option, const std::vector<int>& counts) {
  REVODE_REQUIRE(counts.size() <= max_stages,
                 "--{}: found {} stages, expected at most {}, since each halves the image", option,
                 counts.size(), max_stages);
}

void check_blocks(const std::vector<int>& blocks) {
  for (const int count : blocks)
    REVODE_REQUIRE(count >= 1, "--blocks {}: every stage needs at least one block",
                   fmt::join(blocks, ","));
  REVODE_REQUIRE(sum(blocks) <= max_blocks, "--blocks {}: found {} blocks, expected at most {}",
                 fmt::join(blocks, ","), sum(blocks), max_blocks);
}

int depth_of_blocks(const ArchitectureRule& rule, const std::vector<int>& blocks) {
  return static_cast<int>(2 + rule.convolutions_per_block * sum(blocks));
}

/// The blocks of each stage that the options name, checked against their depth.
std::vector<int> blocks_of(const ArchitectureRule& rule, const ArchitectureOptions& options) {
  check_num_stages("blocks", options.blocks);
  check_num_stages("widths", options.widths);
  std::vector<int> blocks = options.blocks;
  if (blocks.empty()) {
    const int num_stages =
        options.widths.empty() ? default_num_stages : static_cast<int>(options.widths.size());
    blocks = blocks_of_depth(rule, options.depth.value_or(default_depth), num_stages);
  }
  check_blocks(blocks);
  const int depth = depth_of_blocks(rule, blocks);
  REVODE_REQUIRE(options.depth.value_or(depth) == depth,
                 "--depth {} contradicts --blocks {}, which is depth {}",
                 options.depth.value_or(depth), fmt::join(blocks, ","), depth);
  return blocks;
}

void check_widths(const ArchitectureRule& rule, const std::vector<int>& widths) {
  for (std::size_t k = 0; k < widths.size(); ++k) {
    REVODE_REQUIRE(widths[k] >= 1, "--widths {}: each must be at least 1", fmt::join(widths, ","));
    REVODE_REQUIRE(widths[k] <= max_width, "--widths {}: found {}, expected at most {}",
                   fmt::join(widths, ","), widths[k], max_width);
    REVODE_REQUIRE(!rule.halves || widths[k] % 2 == 0,
                   "--widths {}: {} cuts the channels in halves, so {} must be even",
                   fmt::join(widths, ","), rule.name, widths[k]);
    REVODE_REQUIRE(k == 0 || widths[k] >= widths[k - 1],
                   "--widths {}: widths never shrink, but {} follows {}", fmt::join(widths, ","),
                   widths[k], widths[k - 1]);
  }
}

/// Nearly all parameters there are, in floating point, where nothing overflows.
double kernel_parameters(const ArchitectureRule& rule, const std::vector<int>& blocks,
                         const std::vector<int>& widths) {
  double count = 0;
  for (std::size_t k = 0; k < widths.size(); ++k) {
    const double channels = rule.halves ? widths[k] / 2.0 : widths[k];
    count += 9.0 * rule.couplings_per_block * blocks[k] * channels * channels;
  }
  return count;
}

}  // namespace

std::vector<std::string> architecture_names() {
  std::vector<std::string> names;
  for (const ArchitectureRule* rule : rules) names.emplace_back(rule->name);
  return names;
}

const ArchitectureRule& architecture_rule(std::string_view name) {
  for (const ArchitectureRule* rule : rules)
    if (rule->name == name) return *rule;
  throw input_error("--arch: found '{}', expected one of {}", name,
                    fmt::join(architecture_names(), ", "));
}

int depth_of(const ArchitectureOptions& options) {
  const ArchitectureRule& rule = architecture_rule(options.arch);
  return depth_of_blocks(rule, blocks_of(rule, options));
}

Architecture::Architecture(const ArchitectureOptions& options)
    : rule_(&architecture_rule(options.arch)),
      step_size_(options.step_size),
      grid_bits_(options.grid_bits),
      precision_(options.precision),
      num_classes_(options.num_classes),
      image_channels_(options.image_channels) {
  const std::vector<int> blocks = blocks_of(*rule_, options);
  std::vector<int> widths = options.widths;
  const int num_stages = static_cast<int>(blocks.size()), depth = depth_of_blocks(*rule_, blocks);
  if (widths.empty()) {
    REVODE_REQUIRE(
        num_stages == default_num_stages,
        "--blocks {} names {} stages: give --widths with as many entries (the default is for {})",
        fmt::join(blocks, ","), num_stages, default_num_stages);
    widths = depth < wide_depth ? std::vector{32, 64, 112} : std::vector{32, 64, 128};
  }
  REVODE_REQUIRE(blocks.size() == widths.size(),
                 "--blocks {} names {} stages, --widths {} names {}", fmt::join(blocks, ","),
                 blocks.size(), fmt::join(widths, ","), widths.size());
  check_widths(*rule_, widths);
  const double parameters = kernel_parameters(*rule_, blocks, widths);
  REVODE_REQUIRE(parameters <= max_parameters,
                 "--widths {} with --blocks {}: that is {:.3g} parameters, expected at most {:.0e}",
                 fmt::join(widths, ","), fmt::join(blocks, ","), parameters, max_parameters);

  int height = options.image_height, width_pixels = options.image_width, first_coupling = 0;
  for (int k = 0; k < num_stages; ++k) {
    const int couplings = blocks[k] * rule_->couplings_per_block;
    stages_.push_back({.blocks = blocks[k],
                       .couplings = couplings,
                       .first_coupling = first_coupling,
                       .width = widths[k],
                       .channels = rule_->halves ? widths[k] / 2 : widths[k],
                       .height = height,
                       .width_pixels = width_pixels});
    first_coupling += couplings;
    if (k + 1 == num_stages) break;
    REVODE_REQUIRE(height % 2 == 0 && width_pixels % 2 == 0,
                   "--widths {}: images of {} x {} pixels can't be halved at every transition, of "
                   "which there are {}: expected sides that {} divides (--image-size), or fewer "
                   "widths",
                   fmt::join(widths, ","), options.image_height, options.image_width,
                   num_stages - 1, std::int64_t{1} << (num_stages - 1));
    height /= 2;
    width_pixels /= 2;
  }
}

int Architecture::num_blocks() const {
  int count = 0;
  for (const Stage& stage : stages_) count += stage.blocks;
  return count;
}

int Architecture::depth() const { return 2 + rule_->convolutions_per_block * num_blocks(); }

std::vector<int> Architecture::blocks() const {
  std::vector<int> result;
  for (const Stage& stage : stages_) result.push_back(stage.blocks);
  return result;
}

std::vector<int> Architecture::widths() const {
  std::vector<int> result;
  for (const Stage& stage : stages_) result.push_back(stage.width);
  return result;
}

std::string Architecture::layer_name(int layer) const {
  if (layer == 0) return "the opening";
  if (layer == closing_layer()) return "the closing";
  std::size_t k = stages_.size() - 1;
  while (stages_[k].first_coupling > layer - 1) --k;
  return fmt::format("coupling {} of stage {}", layer - 1 - stages_[k].first_coupling, k + 1);
}

int Architecture::stage_of_block(int block) const {
  int stage = 0;
  while (block >= stages_[stage].blocks) block -= stages_[stage++].blocks;
  return stage;
}

std::int64_t Architecture::num_parameters() const {
  const std::int64_t features_in = stages_.front().width, features_out = stages_.back().width;
  std::int64_t count = features_in * image_channels_ * 9 + 2 * features_in;
  for (const Stage& stage : stages_)
    count += std::int64_t{stage.couplings} *
             (9 * std::int64_t{stage.channels} * stage.channels + stage.channels);
  return count + 2 * features_out + features_out * num_classes_ + num_classes_;
}

SegmentShape Architecture::segment(int stage, int first, int count) const {
  const Stage& at = stages_[stage];
  return {.force = rule_->force,
          .num_couplings = count,
          .channels = at.channels,
          .height = at.height,
          .width = at.width_pixels,
          .first_target = (at.first_coupling + first) % 2,
          .gamma = rule_->gamma,
          .beta = rule_->beta,
          .scale = rule_->scale(step_size_),
          .grid_bits = grid_bits_,
          .precision = precision_};
}

FeatureMap Architecture::opening_features() const { return {.joined = rule_->halves, .slot = 1}; }

// The couplings target slots 0, 1, 0, ... in turn: after an odd number of them the newest state is
// in slot 0.
FeatureMap Architecture::closing_features() const {
  return {.joined = rule_->halves, .slot = 1 - num_couplings() % 2};
}

OpeningShape Architecture::opening(int batch) const {
  return {.batch = batch,
          .in_channels = image_channels_,
          .height = image_height(),
          .width = image_width(),
          .channels = stages_.front().channels,
          .features = opening_features(),
          .grid_bits = grid_bits_};
}

TransitionShape Architecture::transition(int stage, int batch) const {
  return {.batch = batch,
          .in_channels = stages_[stage].channels,
          .out_channels = stages_[stage + 1].channels,
          .height = stages_[stage].height,
          .width = stages_[stage].width_pixels,
          .grid_bits = grid_bits_};
}

ClosingShape Architecture::closing(int batch) const {
  const Stage& last = stages_.back();
  return {.batch = batch,
          .channels = last.channels,
          .height = last.height,
          .width = last.width_pixels,
          .features = closing_features(),
          .num_classes = num_classes_};
}

// A symmetric coupling takes 2 convolutions forward and 6 back (F again, two adjoints, two kernel
// gradients), an antisymmetric one 1 and 3.
std::int64_t Architecture::block_cost(int block) const {
  const Stage& stage = stages_[stage_of_block(block)];
  const std::int64_t convolution = 9 * std::int64_t{stage.channels} * stage.channels *
                                   static_cast<std::int64_t>(stage.plane_size());
  return rule_->couplings_per_block * (rule_->force == Force::symmetric ? 8 : 4) * convolution;
}

// The small convolution, forward and kernel gradient, each evaluated about twice around the
// statistics.
std::int64_t Architecture::opening_cost() const {
  const Stage& stage = stages_.front();
  return 4 * 9 * std::int64_t{image_channels_} * stage.width *
         static_cast<std::int64_t>(stage.plane_size());
}

// A few passes over the features; the fully connected layer.
std::int64_t Architecture::closing_cost() const {
  const Stage& stage = stages_.back();
  return 8 * std::int64_t{stage.width} * static_cast<std::int64_t>(stage.plane_size()) +
         3 * std::int64_t{stage.width} * num_classes_;
}

}  // namespace revode
