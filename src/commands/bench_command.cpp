// revode bench: how fast this network trains here, where the time and the memory go, and how much
// of the machine that is. Figures that several ranks have each for themselves are gathered as JSON.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/core/console.hpp"
#include "revode/core/spread.hpp"
#include "revode/core/units.hpp"
#include "revode/files/host.hpp"
#include "revode/files/json_text.hpp"
#include "revode/model/convolution_count.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/run/write_permission.hpp"
#include "revode/train/report.hpp"
#include "revode/train/schedule_choice.hpp"
#include "revode/train/trace_file.hpp"

#include "commands/bench_machine.hpp"
#include "commands/bench_report.hpp"
#include "commands/benchmark.hpp"
#include "commands/commands.hpp"
#include "commands/stored_model.hpp"

namespace revode {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t default_steps = 10;
struct NamedPhase {
  Phase phase;
  const char* name;
  bool by_stage = false;
};
constexpr NamedPhase named_phases[] = {
    {Phase::data, "data"},
    {Phase::opening, "opening"},
    {Phase::stage_forward, "forward", true},
    {Phase::stage_back, "back", true},
    {Phase::transition, "transitions"},
    {Phase::closing, "closing"},
    {Phase::regularization, "regularization"},
    {Phase::optimizer, "optimizer"},
    {Phase::waiting, "waiting"},
};
static_assert(std::size(named_phases) == num_phases);

void add_spread(Json& json, const std::string& name, const Spread& spread) {
  json[name] = spread.median;
  json[name + "_lowest"] = spread.lowest;
  json[name + "_lower_quartile"] = spread.lower_quartile;
  json[name + "_upper_quartile"] = spread.upper_quartile;
  json[name + "_highest"] = spread.highest;
  json[name + "_mean"] = spread.mean;
}

/// Phases of this rank and what the step took beside them.
Json phases_of(const Measurements& seen, int rank) {
  Json list = Json::array();
  const double step = spread_of(seen.step_seconds).mean;
  const auto add = [&](const std::string& name, const std::vector<double>& seconds) {
    const Spread spread = spread_of(seconds);
    if (spread.highest == 0) return;
    Json item{{"rank", rank}, {"phase", name}};
    add_spread(item, "seconds", spread);
    item["share"] = spread.mean / step;
    list.push_back(item);
  };
  std::vector<double> rest = seen.step_seconds;
  for (const NamedPhase& named : named_phases) {
    for (int stage = 0; stage < seen.phases.front().num_stages(); ++stage) {
      const std::vector<double> seconds = seen.seconds_of(named.phase, stage);
      for (std::size_t i = 0; i < rest.size(); ++i) rest[i] -= seconds[i];
      add(named.by_stage ? fmt::format("stage {} {}", stage + 1, named.name) : named.name, seconds);
    }
  }
  add("rest", rest);
  return list;
}

std::vector<TimeSlice<float>::StagePart> stage_parts_of(const Network& network) {
  std::vector<TimeSlice<float>::StagePart> parts;
  for (const auto& share : network.shares())
    for (const auto& part : share->slice().stage_parts()) parts.push_back(part);
  return parts;
}

/// Of a mini-batch, those that this rank's replica takes.
int images_of_replica(const Network& network) {
  const RunPlan& plan = network.plan();
  const std::vector<int> sizes = cut_evenly(plan.config.batch_size, plan.num_micro_batches);
  int images = 0;
  for (int m = 0; m < plan.num_micro_batches; ++m)
    if (network.grid().replica_of(m) == network.grid().replica()) images += sizes[m];
  return images;
}

/// The couplings that this rank has of each stage, with what their kernels reach.
Json stages_of(Network& network, const Measurements& seen) {
  const RunPlan& plan = network.plan();
  Json list = Json::array();
  const double peak = spread_of(seen.peak_flops).median;
  for (const auto& [stage, segment] : stage_parts_of(network)) {
    const SegmentShape& shape = segment->shape();
    const ConvolutionCount count = convolutions_of_coupling(shape.force, plan.activations);
    const double flops =
        shape.num_couplings * convolution_flops(shape) * images_of_replica(network);
    const double forward = spread_of(seen.seconds_of(Phase::stage_forward, stage)).median;
    const double back = spread_of(seen.seconds_of(Phase::stage_back, stage)).median;
    const double rate = (count.forward + count.back) * flops / (forward + back);
    list.push_back({{"rank", network.grid().world().rank()},
                    {"stage", stage + 1},
                    {"couplings", shape.num_couplings},
                    {"channels", shape.channels},
                    {"height", shape.height},
                    {"width", shape.width},
                    {"kernel", segment->description()},
                    {"gflop", (count.forward + count.back) * flops / giga},
                    {"forward_seconds", forward},
                    {"forward_gflops", count.forward * flops / forward / giga},
                    {"forward_share", count.forward * flops / forward / peak},
                    {"back_seconds", back},
                    {"back_gflops", count.back * flops / back / giga},
                    {"back_share", count.back * flops / back / peak},
                    {"seconds", forward + back},
                    {"gflops", rate / giga},
                    {"share", rate / peak}});
  }
  return list;
}

/// Operations of one mini-batch through all couplings of the network.
struct NetworkFlops {
  double step = 0;
  double forward = 0;
};
NetworkFlops network_flops(const RunPlan& plan) {
  const Architecture& architecture = plan.architecture;
  NetworkFlops flops;
  for (int k = 0; k < static_cast<int>(architecture.stages().size()); ++k) {
    const SegmentShape shape = architecture.segment(k, 0, architecture.stages()[k].couplings);
    const ConvolutionCount count = convolutions_of_coupling(shape.force, plan.activations);
    const double each = shape.num_couplings * convolution_flops(shape) * plan.config.batch_size;
    flops.step += (count.forward + count.back) * each;
    flops.forward += count.forward * each;
  }
  return flops;
}

/// Every rank's `mine` (a list), one behind the other.
Json gather_lists(const Communicator& communicator, const Json& mine) {
  Json all = Json::array();
  for (int rank = 0; rank < communicator.size(); ++rank)
    for (const Json& item : parse_ordered_json(communicator.broadcast(to_text(mine), rank)))
      all.push_back(item);
  return all;
}

Json memory_of(const Communicator& communicator) {
  const MemoryReport report = gather_memory(communicator);
  Json apart = Json::array();
  for (int rank = 0; rank < communicator.size(); ++rank) {
    std::int64_t bytes = report.peak_resident[rank];
    for (const Memory category :
         {Memory::weights, Memory::gradients, Memory::momentum, Memory::packed_weights})
      bytes -= report.ranks[rank].peak(category);
    apart.push_back(bytes);
  }
  return {{"peak_memory_bytes", report.peak_resident},
          {"peak_bytes_apart_from_parameters", apart},
          {"peak_bytes_by_use", peaks_by_category(report.ranks)}};
}

/// Of ranks that compute on devices: a step's work, and memory. Collective.
Json devices_of(const Communicator& communicator, const Measurements& seen) {
  const MemoryReport report = gather_memory(communicator);
  const std::optional<WorkCounts>& work = seen.work_of_step;
  const Json mine = work ? Json{{{"rank", communicator.rank()},
                                 {"launches", work->launched},
                                 {"replays", work->num_replays},
                                 {"replayed_launches", work->replayed},
                                 {"graphs", work->num_graphs},
                                 {"host_waits", work->num_waits},
                                 {"copies_to_host", work->num_fetches}}}
                         : Json::array();
  const Json ranks = gather_lists(communicator, mine);
  if (ranks.empty()) return Json::object();
  return {{"device_memory_bytes", device_peaks(report)},
          {"device_bytes_by_use", peaks_by_category(report.devices)},
          {"device_work", ranks}};
}

Json settings_of(Network& network) {
  const RunPlan& plan = network.plan();
  const Config& config = plan.config;
  const Architecture& architecture = network.architecture();
  return {{"version", version_text()},
          {"revision", source_revision()},
          {"processor", processor_name()},
          {"backend", network.backend().description()},
          {"ranks", network.grid().world().size()},
          {"threads", network.num_threads()},
          {"arch", config.arch},
          {"depth", architecture.depth()},
          {"blocks", architecture.blocks()},
          {"widths", architecture.widths()},
          {"parameters", architecture.num_parameters()},
          {"batch_size", config.batch_size},
          {"micro_batches", plan.num_micro_batches},
          {"schedule", plan.schedule->name},
          {"slices_per_rank", plan.placement.num_slices() / plan.placement.num_ranks()},
          {"bubble_predicted", simulate_step(plan, step_programs(plan)).bubble()},
          {"activations", config.activations},
          {"precision", config.precision},
          {"grid_bits", config.grid_bits},
          {"dataset", config.dataset},
          {"warm_up_steps", num_warm_up_steps},
          {"steps", *config.steps}};
}

/// Everything that was measured, the same on every rank. Collective.
Json result_of(Network& network, const Measurements& seen) {
  const Communicator& communicator = network.grid().world();
  const Config& config = network.plan().config;
  const NetworkFlops flops = network_flops(network.plan());
  const double my_peak = spread_of(seen.peak_flops).median;
  double peak = 0;
  for (const double one : communicator.all_gather(std::span<const double>(&my_peak, 1)))
    peak += one;
  const Spread step = spread_of(seen.step_seconds), forward = spread_of(seen.forward_seconds);
  const Json stages = gather_lists(communicator, stages_of(network, seen));
  // Operations that the ranks could have done while they were in their stages.
  double body_flops = 0, possible_flops = 0;
  for (const Json& stage : stages) {
    const double gflop = stage["gflop"], share = stage["share"];
    body_flops += gflop;
    possible_flops += gflop / share;
  }

  Json result{{"images_per_second", config.batch_size / step.median}};
  add_spread(result, "step_seconds", step);
  result.update({{"effective_gflops", flops.step / step.median / giga},
                 {"peak_gflops", peak / giga},
                 {"peak_share", flops.step / step.median / peak},
                 {"body_gflops", body_flops / possible_flops * peak / giga},
                 {"body_share", body_flops / possible_flops}});
  add_spread(result, "forward_seconds", forward);
  result.update({{"forward_images_per_second", config.batch_size / forward.median},
                 {"forward_gflops", flops.forward / forward.median / giga},
                 {"forward_share", flops.forward / forward.median / peak}});
  result.update(memory_of(communicator));
  result["message_bytes"] = communicator.all_gather(seen.message_bytes);
  result.update(devices_of(communicator, seen));
  result["stages"] = stages;
  result["phases"] = gather_lists(communicator, phases_of(seen, communicator.rank()));
  result.update(settings_of(network));
  if (const RunPlan& plan = network.plan(); plan.costs_are_times)
    result["step_seconds_predicted"] = simulate_step(plan, step_programs(plan)).seconds / giga;
  return result;
}

/// The training split, of at least one mini-batch.
std::unique_ptr<DataFeed> make_feed(const Config& config, const Grid& grid) {
  auto feed = std::make_unique<DataFeed>(config, Split::train, config.train_fraction, grid);
  grid.world().agree([&] {
    REVODE_REQUIRE(feed->size() >= config.batch_size,
                   "--batch-size {}: the {} training samples of {} do not fill one mini-batch",
                   config.batch_size, feed->size(), config.dataset);
  });
  return feed;
}

/// The model's normalisation or, for initial weights, the split's own.
void normalise(DataFeed& feed, Network& network) {
  const Config& config = network.plan().config;
  if (!network.grid().is_reader()) return;
  feed.set_transform(
      {.statistics = config.checkpoint.empty() ? feed.statistics() : network.input_statistics(),
       .augment = config.augment,
       .seed = config.seed},
      network.shared_backend());
}

}  // namespace

ExitStatus bench_command(Config given, const Communicator& world) {
  // What a checkpoint says of its run's length is not how often to measure.
  const std::optional<std::int64_t> steps =
      given.given("steps") ? given.steps : std::optional<std::int64_t>(default_steps);
  check_results(given, world);
  RunPlan plan = complete_plan(std::move(given), world);
  const Grid grid = make_grid(plan, world);
  plan.config.steps = steps;
  const Config& config = plan.config;
  world.agree([&] {
    REVODE_REQUIRE(*steps >= 1 && *steps <= 1'000'000,
                   "--steps {}: bench needs from 1 to 1000000 steps to time", *steps);
  });
  const std::unique_ptr<DataFeed> feed = make_feed(config, grid);
  const std::unique_ptr<Network> network = load_network(plan, grid, config.batch_size);
  normalise(*feed, *network);
  TrainingStep training(*network);
  for (const auto& share : network->shares()) share->velocity();
  const bool prints = grid.is_printer() && !config.json_to_stdout();

  const std::string block = start_block(*network);
  if (prints) {
    print_result("{}timing {} steps of {} images after {} to warm up\n\n", block, *steps,
                 config.batch_size, num_warm_up_steps);
  }
  std::optional<TraceFile> trace_file;
  if (!config.trace.empty()) trace_file.emplace(*network);
  const Measurements seen = measure(*network, training, *feed, static_cast<int>(*steps));
  if (trace_file) trace_file->write(TraceFile::Failure::error);
  const Json result = result_of(*network, seen);
  if (prints) print_result(bench_tables(result));
  if (!config.machine_file.empty()) {
    const Json machine = machine_of(*network, seen);
    if (grid.is_printer()) write_machine_file(config, machine);
  }
  if (grid.is_printer()) write_json_result(config, result);
  return ExitStatus::success;
}

}  // namespace revode
