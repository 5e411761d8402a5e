#include "revode/train/report.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "revode/io/metrics.hpp"
#include "revode/io/run_log.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/pipeline/schedule.hpp"

namespace revode {
namespace {

/// Above this share of idle time the block says what would help.
constexpr double notable_bubble = 0.25;

std::string partition_lines(const Config& config, Network& network) {
  const Architecture& architecture = network.architecture();
  const std::vector<BlockRange>& slices = network.slices();
  const ScheduleRule& schedule = schedule_rule(config.schedule);
  const int num_ranks = static_cast<int>(slices.size());
  double total = 0, largest = 0;
  for (const BlockRange slice : slices) {
    const auto cost = static_cast<double>(slice_cost(architecture, slice));
    total += cost;
    largest = std::max(largest, cost);
  }
  const Communicator& communicator = network.communicator();
  const std::vector<std::int64_t> stash = communicator.all_gather(static_cast<std::int64_t>(
      network.slice().stash_bytes(network.largest_micro_batch()) *
      schedule.most_in_flight(communicator.rank(), num_ranks, *config.micro_batches)));
  const std::vector<std::int64_t> weights =
      communicator.all_gather(static_cast<std::int64_t>(network.values().size()));

  std::string text = fmt::format("  {:>4}  {:>13}  {:>6}  {:>11}  {:>10}  {}\n", "rank", "blocks",
                                 "work", "parameters", "stash", "holds");
  // Hundreds of ranks would bury the rest: show the ends.
  constexpr int most_lines = 32;
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (num_ranks > most_lines && rank == most_lines / 2) {
      text += fmt::format("  {:>4}\n", "...");
      rank = num_ranks - most_lines / 2;
    }
    const BlockRange slice = slices[rank];
    std::vector<std::string> held;
    if (slice.first == 0) held.emplace_back("opening");
    for (int stage = architecture.stage_of_block(slice.first);
         stage <= architecture.stage_of_block(slice.last - 1); ++stage)
      held.push_back(fmt::format("stage {}", stage + 1));
    if (slice.last == architecture.num_blocks()) held.emplace_back("closing");
    text += fmt::format("  {:>4}  {:>13}  {:>5.1f}%  {:>11}  {:>10}  {}\n", rank,
                        fmt::format("{}..{}", slice.first, slice.last - 1),
                        100 * static_cast<double>(slice_cost(architecture, slice)) / total,
                        format_count(weights[rank]), format_bytes(static_cast<double>(stash[rank])),
                        fmt::join(held, ", "));
  }
  if (num_ranks == 1) return text;
  const double balance = total / (num_ranks * largest);
  const double bubble = schedule.bubble(num_ranks, *config.micro_batches);
  text += fmt::format(
      "  balance {:.1f}%, {} over {} micro-batches: {:.0f}% of each rank's time idle while the "
      "pipeline fills "
      "and drains\n",
      100 * balance, schedule.name, *config.micro_batches, 100 * bubble);
  if (bubble > notable_bubble)
    text += fmt::format(
        "  note: with {} ranks, --micro-batches {} would bring that to {:.0f}% (batch norm then "
        "sees smaller "
        "batches, so results change)\n",
        num_ranks, 4 * num_ranks, 100 * schedule.bubble(num_ranks, 4 * num_ranks));
  return text;
}

std::string memory_lines(const MemoryReport& report) {
  const auto most = [&](Memory category) {
    std::int64_t bytes = 0;
    for (const MemoryUse& use : report.ranks) bytes = std::max(bytes, use.current(category));
    return format_bytes(static_cast<double>(bytes));
  };
  return fmt::format(
      "memory a rank (largest)\n"
      "  grows with depth      weights {}, gradients {}, momentum {}, kernel-layout copies {}\n"
      "  does not              message and state buffers {}, data {}; stash as above; workspace "
      "with the first step\n",
      most(Memory::weights), most(Memory::gradients), most(Memory::momentum),
      most(Memory::packed_weights), most(Memory::state), most(Memory::data));
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

std::string peak_memory_text(const MemoryReport& report) {
  const auto largest = std::ranges::max_element(report.peak_resident);
  const MemoryUse& use = report.ranks[largest - report.peak_resident.begin()];
  const auto sum = [&](std::initializer_list<Memory> categories) {
    std::int64_t bytes = 0;
    for (const Memory category : categories) bytes += use.peak(category);
    return format_bytes(static_cast<double>(bytes));
  };
  return fmt::format(
      "{} (weights, gradients, momentum, copies {}; state, stash, workspace {}; data {})",
      format_bytes(static_cast<double>(*largest)),
      sum({Memory::weights, Memory::gradients, Memory::momentum, Memory::packed_weights}),
      sum({Memory::state, Memory::stash, Memory::workspace}), sum({Memory::data}));
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

std::string start_block(const Config& config, Network& network) {
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
  text += fmt::format("{} on {} {}, {}, activations {}\n", network.backend().description(),
                      network.communicator().size(),
                      network.communicator().size() == 1 ? "rank" : "ranks", config.precision,
                      config.activations == "store" ? "stored" : "recomputed in reverse");
  text += partition_lines(config, network);
  text += memory_lines(gather_memory(network.communicator()));
  return text;
}

}  // namespace revode
