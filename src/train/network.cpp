#include "revode/train/network.hpp"

#include <algorithm>
#include <utility>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/files/host.hpp"
#include "revode/train/memory_forecast.hpp"
#include "revode/train/schedule_choice.hpp"

namespace revode {
namespace {

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

/// Collective. The plan, if the ranks have room for it.
RunPlan with_room(RunPlan plan, const Grid& grid, int largest_micro_batch) {
  check_memory(forecast_memory(plan, largest_micro_batch)[grid.time().rank()], grid.world());
  return plan;
}

/// Collective. The backend that the configuration names, if it computes as asked.
std::unique_ptr<Backend<float>> make_backend_for(const RunPlan& plan, int num_threads,
                                                 const Communicator& world) {
  std::unique_ptr<Backend<float>> backend;
  world.agree([&] {
    backend = make_backend(plan.config.backend, num_threads);
    const Precision precision = plan.architecture.precision();
    if (!backend->multiplies_in(precision))
      throw input_error(
          "--precision {} (given, or a checkpoint's): the {} backend multiplies in fp32 alone; "
          "expected --precision fp32, or --backend cuda where there is a GPU",
          to_string(precision), backend->name());
  });
  if (backend->work_counts())
    world.require_same({{"the device", backend->description()}},
                       "other devices compute other bits: let each rank have one of the same kind, "
                       "or use --backend cpu");
  return backend;
}

}  // namespace

RunPlan make_plan(const Config& config, const Communicator& world) {
  std::optional<RunPlan> plan;
  world.agree([&] { plan = make_plan(config, world.size()); });
  return *std::move(plan);
}

Grid make_grid(const RunPlan& plan, const Communicator& world) {
  return Grid(world, plan.placement.num_ranks(), plan.data_ranks, world.all_gather(host_name()));
}

Network::Network(RunPlan plan, const Grid& grid, int largest_micro_batch)
    : Network(std::move(plan), grid, largest_micro_batch, nullptr) {}

Network::Network(RunPlan plan, const Grid& grid, int largest_micro_batch,
                 std::unique_ptr<Backend<float>> backend)
    : plan_(with_room(std::move(plan), grid, largest_micro_batch)),
      grid_(grid),
      largest_micro_batch_(largest_micro_batch),
      num_threads_(threads_of(plan_.config, grid.world())),
      backend_(backend ? std::move(backend) : make_backend_for(plan_, num_threads_, grid.world())) {
  plan_ = settle(std::move(plan_), *backend_, grid, largest_micro_batch);
  std::vector<TimeSlice<float>*> slices;
  for (const int slice : placement().slices_of(grid.time().rank())) {
    shares_.push_back(std::make_unique<Share<float>>(architecture(), slice, plan_.slices[slice],
                                                     *backend_, plan_.activations,
                                                     plan_.config.seed));
    slices.push_back(&shares_.back()->slice());
  }
  pipeline_ = std::make_unique<Pipeline>(grid, placement(), std::move(slices), *backend_,
                                         largest_micro_batch);
}

void Network::load_weights() {
  for (const auto& share : shares_) share->slice().load_weights();
}

Share<float>* Network::first_share() const {
  return placement().first_rank() == grid_.time().rank() ? shares_.front().get() : nullptr;
}

Share<float>* Network::last_share() const {
  return placement().last_rank() == grid_.time().rank() ? shares_.back().get() : nullptr;
}

ChannelStatistics Network::input_statistics() const {
  Share<float>& share = *first_share();
  const std::span<const float> values = share.values().read();
  const auto copy = [&](const ParameterEntry& entry) {
    const float* begin = values.data() + entry.offset;
    return std::vector<float>(begin, begin + entry.size());
  };
  return {copy(share.map().input_mean), copy(share.map().input_std)};
}

void Network::set_input_statistics(const ChannelStatistics& statistics) {
  Share<float>& share = *first_share();
  share.values().fetch();
  const std::span<float> values = share.values().host();
  std::ranges::copy(statistics.mean, values.data() + share.map().input_mean.offset);
  std::ranges::copy(statistics.std, values.data() + share.map().input_std.offset);
  share.values().store();
}

void Network::time_phases() {
  phase_timer_.emplace(static_cast<int>(architecture().stages().size()), *backend_);
  for (const auto& share : shares_) share->slice().set_phase_timer(&*phase_timer_);
  pipeline_->set_phase_timer(&*phase_timer_);
}

void Network::trace_steps(int num_steps) {
  trace_.emplace(num_steps, *backend_);
  pipeline_->set_trace(&*trace_);
}

}  // namespace revode
