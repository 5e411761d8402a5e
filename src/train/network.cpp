#include "revode/train/network.hpp"

#include <algorithm>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/data/dataset.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/pipeline/schedule.hpp"
#include "revode/train/memory_forecast.hpp"

namespace revode {
namespace {

constexpr int default_epochs = 200;
constexpr int default_epochs_synthetic = 10;

/// More threads a processor than this do nothing but wait for each other.
constexpr int most_threads_a_processor = 4;

/// Collective.
int threads_of(const Config& config, const Communicator& communicator) {
  const Communicator::HostShare share = communicator.host_share();
  const int threads =
      config.threads.value_or(std::max(1, share.num_processors / share.num_sharing));
  communicator.agree([&] {
    REVODE_REQUIRE(threads <= most_threads_a_processor * share.num_processors,
                   "--threads {}: a rank may use {} processors here, and more than {} threads for "
                   "each would only wait "
                   "for one another; give at most {}",
                   threads, share.num_processors, most_threads_a_processor,
                   most_threads_a_processor * share.num_processors);
  });
  if (communicator.is_root() && threads > share.num_processors)
    print_note(fmt::format("--threads {}: more than the {} processors that a rank may use here",
                           threads, share.num_processors));
  return threads;
}

/// Collective. The architecture, if the ranks have room for it.
const Architecture& with_room(const Config& config, const Architecture& architecture,
                              const Communicator& communicator, const Placement& placement,
                              int largest_micro_batch) {
  const std::vector<BlockRange> cut = partition(architecture, placement.num_slices());
  MemoryForecast mine;
  for (const int slice : placement.slices_of(communicator.rank()))
    mine += forecast_memory(config, architecture, cut[slice], largest_micro_batch);
  check_memory(mine, communicator);
  return architecture;
}

}  // namespace

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

void resolve(Config& config, const Architecture& architecture) {
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
  schedule_rule(config.schedule);
}

void check_ranks(const Config& config, const Communicator& communicator) {
  REVODE_REQUIRE(config.time_ranks.value_or(communicator.size()) == communicator.size(),
                 "--time-ranks {} does not fit the {} ranks that were started: every rank is a "
                 "time rank in this version, "
                 "so give {} or leave it out",
                 config.time_ranks.value_or(0), communicator.size(), communicator.size());
  partition(make_architecture(config), communicator.size());  // throws where the ranks are too many
}

Network::Network(const Config& config, const Architecture& architecture,
                 const Communicator& communicator, int largest_micro_batch)
    : Network(config, architecture, communicator,
              Placement::round_robin(communicator.size(), communicator.size()),
              largest_micro_batch) {}

Network::Network(const Config& config, const Architecture& architecture,
                 const Communicator& communicator, const Placement& placement,
                 int largest_micro_batch)
    : architecture_(with_room(config, architecture, communicator, placement, largest_micro_batch)),
      communicator_(communicator),
      largest_micro_batch_(largest_micro_batch),
      num_threads_(threads_of(config, communicator)),
      placement_(placement),
      slices_(partition(architecture_, placement.num_slices())),
      backend_(make_backend(config.backend, num_threads_)) {
  const Activations activations =
      config.activations == "store" ? Activations::store : Activations::reverse;
  std::vector<TimeSlice<float>*> slices;
  for (const int slice : placement_.slices_of(communicator.rank())) {
    shares_.push_back(std::make_unique<Share>(architecture_, slice, slices_[slice], *backend_,
                                              activations, config.seed));
    slices.push_back(&shares_.back()->slice());
  }
  pipeline_ = std::make_unique<Pipeline>(communicator_, placement_, std::move(slices), *backend_,
                                         largest_micro_batch);
}

void Network::load_weights() {
  for (const auto& share : shares_) share->slice().load_weights();
}

Share* Network::first_share() const {
  return placement_.first_rank() == communicator_.rank() ? shares_.front().get() : nullptr;
}

Share* Network::last_share() const {
  return placement_.last_rank() == communicator_.rank() ? shares_.back().get() : nullptr;
}

ChannelStatistics Network::input_statistics() const {
  Share& share = *first_share();
  const auto copy = [&](const ParameterEntry& entry) {
    const float* begin = share.values().data() + entry.offset;
    return std::vector<float>(begin, begin + entry.size());
  };
  return {copy(share.map().input_mean), copy(share.map().input_std)};
}

void Network::set_input_statistics(const ChannelStatistics& statistics) {
  Share& share = *first_share();
  std::ranges::copy(statistics.mean, share.values().data() + share.map().input_mean.offset);
  std::ranges::copy(statistics.std, share.values().data() + share.map().input_std.offset);
}

void Network::time_phases() {
  phase_timer_.emplace(static_cast<int>(architecture_.stages().size()));
  for (const auto& share : shares_) share->slice().set_phase_timer(&*phase_timer_);
  pipeline_->set_phase_timer(&*phase_timer_);
}

}  // namespace revode
