#include "revode/train/report.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "revode/core/host_memory.hpp"
#include "revode/core/resident_memory.hpp"
#include "revode/files/host.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/pipeline/schedule.hpp"
#include "revode/run/run_log.hpp"
#include "revode/train/schedule_choice.hpp"

namespace revode {
namespace {

/// Above this share of idle time the block says what would help.
constexpr double notable_bubble = 25;  // percent
/// Hundreds of ranks would bury the rest: the table shows the ends.
constexpr int most_lines = 32;
constexpr double nanoseconds_a_ms = 1e6;

/// "opening, stages 1-3, closing".
std::string held_by(const Architecture& architecture, BlockRange slice) {
  const int first = architecture.stage_of_block(slice.first) + 1;
  const int last = architecture.stage_of_block(slice.last - 1) + 1;
  return fmt::format(
      "{}{}{}", slice.first == 0 ? "opening, " : "",
      first == last ? fmt::format("stage {}", first) : fmt::format("stages {}-{}", first, last),
      slice.last == architecture.num_blocks() ? ", closing" : "");
}

/// Who owns a slice: the rank where there is one replica, else the time rank of all that do.
int shown_rank(const Network& network, int slice) {
  const int time_rank = network.placement().rank_of(slice);
  return network.grid().num_replicas() == 1 ? network.grid().order()[time_rank] : time_rank;
}

std::string partition_lines(Network& network) {
  const RunPlan& plan = network.plan();
  const Architecture& architecture = network.architecture();
  const std::vector<BlockRange>& slices = network.slices();
  const ScheduleRule& schedule = *plan.schedule;
  const std::vector<SweepCost> costs = slice_costs(plan);
  const int num_replicas = network.grid().num_replicas();
  // Of the replica that takes most.
  const int num_micro_batches = plan.micro_batches_of_a_replica();
  const Placement& placement = network.placement();
  const int num_ranks = placement.num_ranks();
  double total = 0;
  std::vector<double> work(num_ranks);
  for (int slice = 0; slice < placement.num_slices(); ++slice) {
    const auto cost = static_cast<double>(costs[slice].total());
    total += cost;
    work[placement.rank_of(slice)] += cost;
  }
  const Communicator& time = network.grid().time();
  const WorkOrder order = schedule.make(time.rank(), placement, num_micro_batches);
  // By slice; 0 where it is another rank's.
  std::vector<double> mine(2 * slices.size());
  for (const auto& share : network.shares()) {
    mine[2 * share->index()] =
        static_cast<double>(share->slice().stash_bytes(network.largest_micro_batch())) *
        most_in_flight(order, share->index());
    mine[2 * share->index() + 1] = static_cast<double>(share->map().num_trainable());
  }
  const std::vector<double> all = time.all_gather(mine);
  const auto of_slice = [&](int slice, int field) {
    return all[placement.rank_of(slice) * mine.size() + 2 * slice + field];
  };

  const std::string title = num_replicas == 1 ? "rank" : "time rank";
  std::string text = fmt::format("  {} {:>11} {:>6} {:>11} {:>10}  {}\n", title, "blocks", "work",
                                 "parameters", "stash", "holds");
  const int num_slices = placement.num_slices();
  for (int slice = 0; slice < num_slices; ++slice) {
    if (num_slices > most_lines && slice == most_lines / 2) {
      text += fmt::format("  {:>{}}\n", "...", title.size());
      slice = num_slices - most_lines / 2;
    }
    const BlockRange range = slices[slice];
    text += fmt::format("  {:>{}} {:>11} {:>5.1f}% {:>11} {:>10}  {}\n", shown_rank(network, slice),
                        title.size(), fmt::format("{}..{}", range.first, range.last - 1),
                        100 * static_cast<double>(costs[slice].total()) / total,
                        format_count(static_cast<std::int64_t>(of_slice(slice, 1))),
                        format_bytes(of_slice(slice, 0)), held_by(architecture, range));
  }
  if (num_ranks == 1 || !network.grid().is_printer()) return text;  // the others' is not printed
  const double balance = total / (num_ranks * std::ranges::max(work));
  const auto bubble_with = [&](int micro_batches) {
    return 100 * simulate_step(plan, step_programs(plan, micro_batches)).bubble();
  };
  const SimulationResult step = simulate_step(plan, step_programs(plan));
  const double bubble = 100 * step.bubble();
  text += fmt::format(
      "  balance {:.1f}%; {} over {} micro-batches{}: {:.0f}% of the ranks' time idle\n",
      100 * balance, schedule.name, num_micro_batches, num_replicas > 1 ? " a replica" : "",
      bubble);
  if (plan.costs_are_times)
    text += fmt::format("  a step takes {:.1f} ms in the simulation\n",
                        step.seconds / nanoseconds_a_ms);
  if (!plan.choice.empty()) text += fmt::format("  {}\n", plan.choice);
  // Of all replicas: a grid of more replicas shares the same micro-batches.
  if (const int ranks = network.grid().world().size(); plan.num_micro_batches < ranks)
    text += fmt::format(
        "  note: a micro-batch is on one rank at a time: {} of them keep at most {} of the {} "
        "ranks\n"
        "  busy, on any grid\n",
        plan.num_micro_batches, plan.num_micro_batches, ranks);
  // Where slices differ, ranks idle with any number of micro-batches.
  const int better = std::min(4 * num_ranks, most_contributions / num_replicas);
  if (bubble > notable_bubble && num_micro_batches < better)
    text += fmt::format(
        "  note: with {} ranks, --micro-batches {} would bring that to {:.0f}%\n"
        "  (batch norm then sees smaller batches, so results change)\n",
        network.grid().world().size(), better * num_replicas, bubble_with(better));
  return text;
}

/// Of the rank that holds most, on host and device together, at the start.
std::string memory_lines(const MemoryReport& report, Activations activations) {
  const auto total = [&](std::size_t rank) {
    return report.ranks[rank].total() + report.devices[rank].total();
  };
  std::size_t most = 0;
  for (std::size_t rank = 1; rank < report.ranks.size(); ++rank)
    if (total(rank) > total(most)) most = rank;
  const auto bytes_of = [&](Memory category) {
    return format_bytes(static_cast<double>(report.ranks[most].current(category) +
                                            report.devices[most].current(category)));
  };
  const std::int64_t snapshot = report.ranks[most].current(Memory::snapshot);
  const bool stores = activations == Activations::store;
  const std::int64_t host = host_memory_bytes(), on_device = report.devices[most].total();
  std::string text = fmt::format(
      "memory of rank {}, which holds most{}\n"
      "  grows with depth  weights {}, gradients {}, momentum {},\n"
      "                    kernel-layout copies {}{}{}\n"
      "  does not          states and messages {}, data {};\n"
      "                    {}workspace with the first step\n",
      most,
      host > 0 ? fmt::format("; {} has {}", host_name(), format_bytes(static_cast<double>(host)))
               : "",
      bytes_of(Memory::weights), bytes_of(Memory::gradients), bytes_of(Memory::momentum),
      bytes_of(Memory::packed_weights),
      snapshot > 0 ? fmt::format(", snapshot for saves {}", bytes_of(Memory::snapshot)) : "",
      stores ? ", stash as above" : "", bytes_of(Memory::state), bytes_of(Memory::data),
      stores ? "" : "stash as above; ");
  if (on_device > 0)
    text += fmt::format("  of this           {} on its device\n",
                        format_bytes(static_cast<double>(on_device)));
  return text;
}

/// One rank's peak of each category in words, those that belong together added up.
struct PeakParts {
  explicit PeakParts(const MemoryUse& use)
      : weights(use.peak(Memory::weights) + use.peak(Memory::gradients) +
                use.peak(Memory::momentum) + use.peak(Memory::packed_weights) +
                use.peak(Memory::snapshot)),
        states(use.peak(Memory::state) + use.peak(Memory::stash) + use.peak(Memory::workspace)),
        data(use.peak(Memory::data)) {}

  std::int64_t weights, states, data;
};

std::string in_words(std::int64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

std::vector<MemoryUse> gather(const MemoryUse& mine, const Communicator& communicator) {
  std::vector<MemoryUse> ranks(communicator.size());
  for (int category = 0; category < num_memory_categories; ++category) {
    const auto current = communicator.all_gather(mine.current_bytes[category]);
    const auto peak = communicator.all_gather(mine.peak_bytes[category]);
    for (int rank = 0; rank < communicator.size(); ++rank) {
      ranks[rank].current_bytes[category] = current[rank];
      ranks[rank].peak_bytes[category] = peak[rank];
    }
  }
  return ranks;
}

}  // namespace

MemoryReport gather_memory(const Communicator& communicator) {
  return {.ranks = gather(memory_use(), communicator),
          .devices = gather(device_memory_use(), communicator),
          .peak_resident = communicator.all_gather(peak_resident_bytes())};
}

std::string peak_memory_text(const MemoryReport& report, int indentation) {
  const auto largest = std::ranges::max_element(report.peak_resident);
  const auto rank = largest - report.peak_resident.begin();
  const PeakParts peak(report.ranks[rank]);
  return fmt::format(
      "{} (rank {}): weights and their copies {};\n"
      "{:<{}}states {}, data {}, program, libraries {}",
      in_words(*largest), rank, in_words(peak.weights), "", indentation, in_words(peak.states),
      in_words(peak.data),
      in_words(std::max(*largest - peak.weights - peak.states - peak.data, std::int64_t{0})));
}

std::string device_memory_text(const MemoryReport& report) {
  const auto most = std::ranges::max_element(report.devices, {}, &MemoryUse::sum_of_peaks);
  if (most->sum_of_peaks() == 0) return "";
  const PeakParts peak(*most);
  return fmt::format("{} (rank {}): weights and their copies {}, states {}, data {}",
                     in_words(most->sum_of_peaks()), most - report.devices.begin(),
                     in_words(peak.weights), in_words(peak.states), in_words(peak.data));
}

std::vector<std::int64_t> device_peaks(const MemoryReport& report) {
  std::vector<std::int64_t> bytes;
  for (const MemoryUse& use : report.devices) bytes.push_back(use.sum_of_peaks());
  return bytes;
}

nlohmann::ordered_json peaks_by_category(const std::vector<MemoryUse>& ranks) {
  nlohmann::ordered_json json;
  for (int category = 0; category < num_memory_categories; ++category) {
    std::string name(to_string(static_cast<Memory>(category)));
    std::ranges::replace(name, ' ', '_');
    for (const MemoryUse& use : ranks) json[name].push_back(use.peak_bytes[category]);
  }
  return json;
}

std::string start_block(Network& network) {
  const Architecture& architecture = network.architecture();
  std::string text;
  text += fmt::format("{}-{}: blocks {}, widths {}, {} parameters\n", architecture.rule().name,
                      architecture.depth(), fmt::join(architecture.blocks(), ","),
                      fmt::join(architecture.widths(), ","),
                      format_count(architecture.num_parameters()));
  text += fmt::format("  {}, h = {}, {}\n", architecture.rule().block, architecture.step_size(),
                      architecture.grid_bits() > 0
                          ? fmt::format("grid 2^-{}: exact reversal", architecture.grid_bits())
                          : std::string("no grid: reversal up to rounding"));
  const Grid& grid = network.grid();
  text += fmt::format(
      "{} on {} {}{}, {}, activations {}\n", network.backend().description(), grid.world().size(),
      grid.world().size() == 1 ? "rank" : "ranks",
      grid.num_replicas() == 1
          ? ""
          : fmt::format(" ({} time x {} data)", grid.time().size(), grid.num_replicas()),
      network.plan().config.precision,
      network.plan().activations == Activations::store ? "stored" : "rebuilt");
  if (network.backend().work_counts() && grid.world().size() > 1)
    text += network.pipeline().messages_stay_on_device()
                ? "  messages between ranks: from device memory, as MPI takes it\n"
                : "  messages between ranks: staged through page-locked memory of the host\n";
  const NoGpu no_gpu = network.plan().config.backend == "auto" ? why_no_gpu() : NoGpu{};
  if (no_gpu.worth_saying) text += "  no GPU: " + no_gpu.reason + "\n";
  const std::string hosts = hosts_in_words(grid.hosts(), grid.order(), grid.time().size());
  if (!hosts.empty()) text += "  " + hosts + "\n";
  text += partition_lines(network);
  text += memory_lines(gather_memory(grid.world()), network.plan().activations);
  return text;
}

}  // namespace revode
