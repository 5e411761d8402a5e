#include "revode/train/report.hpp"

#include <algorithm>
#include <array>
#include <numeric>

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

std::int64_t num_trainable(const ParameterMap& map) {
  std::int64_t count = 0;
  for (const ParameterEntry* entry : map.entries())
    if (entry->trainable) count += static_cast<std::int64_t>(entry->size());
  return count;
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
  const int num_micro_batches = (plan.num_micro_batches + num_replicas - 1) / num_replicas;
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
    mine[2 * share->index() + 1] = static_cast<double>(num_trainable(share->map()));
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
    return 100 * simulate_step(plan, micro_batches).bubble();
  };
  const SimulationResult step = simulate_step(plan, num_micro_batches);
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

std::string bytes_of(const MemoryUse& use, Memory category) {
  return format_bytes(static_cast<double>(use.current(category)));
}

/// Of the rank that holds most, at the start.
std::string memory_lines(const MemoryReport& report) {
  const auto total = [](const MemoryUse& use) {
    return std::accumulate(use.current_bytes.begin(), use.current_bytes.end(), std::int64_t{0});
  };
  const auto most = std::ranges::max_element(report.ranks, {}, total);
  const std::int64_t host = host_memory_bytes();
  return fmt::format(
      "memory of rank {}, which holds most{}\n"
      "  grows with depth  weights {}, gradients {}, momentum {},\n"
      "                    kernel-layout copies {}\n"
      "  does not          states and messages {}, data {};\n"
      "                    stash as above; workspace with the first step\n",
      most - report.ranks.begin(),
      host > 0 ? fmt::format("; {} has {}", host_name(), format_bytes(static_cast<double>(host)))
               : "",
      bytes_of(*most, Memory::weights), bytes_of(*most, Memory::gradients),
      bytes_of(*most, Memory::momentum), bytes_of(*most, Memory::packed_weights),
      bytes_of(*most, Memory::state), bytes_of(*most, Memory::data));
}

}  // namespace

MemoryReport gather_memory(const Communicator& communicator) {
  const MemoryUse mine = memory_use();
  MemoryReport report;
  report.ranks.resize(communicator.size());
  for (int category = 0; category < num_memory_categories; ++category) {
    const auto current = communicator.all_gather(mine.current_bytes[category]);
    const auto peak = communicator.all_gather(mine.peak_bytes[category]);
    for (int rank = 0; rank < communicator.size(); ++rank) {
      report.ranks[rank].current_bytes[category] = current[rank];
      report.ranks[rank].peak_bytes[category] = peak[rank];
    }
  }
  report.peak_resident = communicator.all_gather(peak_resident_bytes());
  return report;
}

std::string peak_memory_text(const MemoryReport& report, int indentation) {
  const auto largest = std::ranges::max_element(report.peak_resident);
  const auto rank = largest - report.peak_resident.begin();
  const MemoryUse& use = report.ranks[rank];
  const auto sum = [&](std::initializer_list<Memory> categories) {
    std::int64_t bytes = 0;
    for (const Memory category : categories) bytes += use.peak(category);
    return bytes;
  };
  const auto in_words = [](std::int64_t bytes) { return format_bytes(static_cast<double>(bytes)); };
  const std::int64_t weights =
      sum({Memory::weights, Memory::gradients, Memory::momentum, Memory::packed_weights});
  const std::int64_t states = sum({Memory::state, Memory::stash, Memory::workspace});
  const std::int64_t data = sum({Memory::data});
  return fmt::format(
      "{} (rank {}): weights and their copies {};\n"
      "{:<{}}states {}, data {}, program, libraries {}",
      in_words(*largest), rank, in_words(weights), "", indentation, in_words(states),
      in_words(data), in_words(std::max(*largest - weights - states - data, std::int64_t{0})));
}

nlohmann::ordered_json peaks_by_category(const MemoryReport& report) {
  nlohmann::ordered_json json;
  for (int category = 0; category < num_memory_categories; ++category) {
    std::string name(to_string(static_cast<Memory>(category)));
    std::ranges::replace(name, ' ', '_');
    for (const MemoryUse& use : report.ranks) json[name].push_back(use.peak_bytes[category]);
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
  text += fmt::format("  {}, h = {}, {}\n", architecture.rule().equation, architecture.step_size(),
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
  const NoGpu no_gpu = network.plan().config.backend == "auto" ? why_no_gpu() : NoGpu{};
  if (no_gpu.worth_saying) text += "  no GPU: " + no_gpu.reason + "\n";
  const std::string hosts = hosts_in_words(grid.hosts(), grid.order(), grid.time().size());
  if (!hosts.empty()) text += "  " + hosts + "\n";
  text += partition_lines(network);
  text += memory_lines(gather_memory(grid.world()));
  return text;
}

}  // namespace revode
