#include "revode/train/network.hpp"

#include <algorithm>

#include "revode/core/error.hpp"
#include "revode/io/dataset.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/pipeline/schedule.hpp"

namespace revode {
namespace {

constexpr int default_epochs = 200;
constexpr int default_epochs_synthetic = 10;

int threads_of(const Config& config, const Communicator& communicator) {
  const Communicator::HostShare share = communicator.host_share();
  return config.threads.value_or(std::max(1, share.num_processors / share.num_sharing));
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
    : architecture_(architecture),
      communicator_(communicator),
      largest_micro_batch_(largest_micro_batch),
      num_threads_(threads_of(config, communicator)),
      slices_(partition(architecture_, communicator.size())),
      map_(architecture_, slices_[communicator.rank()]),
      values_(map_.size(), Memory::weights),
      backend_(make_backend(config.backend, num_threads_)) {
  initialise(architecture_, map_, config.seed, values_.data());
  slice_ = std::make_unique<TimeSlice<float>>(
      architecture_, slices_[communicator.rank()], map_, *backend_,
      config.activations == "store" ? Activations::store : Activations::reverse, values_.data());
  slice_->load_weights();
  executor_ = std::make_unique<Executor>(communicator_, *slice_, *backend_, largest_micro_batch);
}

void Network::time_phases() {
  phase_timer_.emplace(static_cast<int>(architecture_.stages().size()));
  slice_->set_phase_timer(&*phase_timer_);
  executor_->set_phase_timer(&*phase_timer_);
}

}  // namespace revode
