#include "commands/plan_report.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "revode/pipeline/partition.hpp"
#include "revode/run/run_log.hpp"
#include "revode/train/run_forecast.hpp"

namespace revode {
namespace {

using Json = nlohmann::ordered_json;

/// A table of more would bury the rest: then a line stands for several ranks.
constexpr int most_lines = 32;
int slices_a_rank(const JobPlan& job) {
  return job.plan.placement.num_slices() / job.plan.placement.num_ranks();
}

std::string milliseconds(double seconds) { return fmt::format("{:.1f}", 1e3 * seconds); }

int num_blocks(const JobPlan::Rank& rank) {
  int count = 0;
  for (const BlockRange& slice : rank.slices) count += slice.size();
  return count;
}

/// "12", or "12..14".
std::string interval(const std::string& low, const std::string& high) {
  return low == high ? low : low + ".." + high;
}

/// What the table says of ranks first .. last - 1.
std::string row_of(const JobPlan& job, int first, int last) {
  const auto extremes = [&](auto&& of, auto&& in_words) {
    double low = of(first), high = low;
    for (int rank = first + 1; rank < last; ++rank) {
      low = std::min(low, double{of(rank)});
      high = std::max(high, double{of(rank)});
    }
    return interval(in_words(low), in_words(high));
  };
  const auto idle = [&](int rank) {
    return 100 * (1 - job.ranks[rank].work_seconds / job.step_seconds());
  };
  return fmt::format(
      "{:>9} {:>15} {:>9}  {:<20} {:<20} {}\n",
      extremes([&](int rank) { return double{1} * num_blocks(job.ranks[rank]); },
               [](double count) { return fmt::format("{:.0f}", count); }),
      extremes([&](int rank) { return job.ranks[rank].work_seconds; }, milliseconds),
      extremes(idle, [](double percent) { return fmt::format("{:.0f}%", percent); }),
      extremes([&](int rank) { return job.ranks[rank].memory.of_parameters(); }, format_bytes),
      extremes([&](int rank) { return job.ranks[rank].memory.of_states(); }, format_bytes),
      extremes([&](int rank) { return static_cast<double>(job.message_bytes(rank, 0)); },
               format_bytes));
}

/// Neighbours that are alike share a line; where that leaves too many, lines stand for as many
/// ranks each.
std::string rank_table(const JobPlan& job) {
  const int num_ranks = static_cast<int>(job.ranks.size());
  std::vector<int> begins;  // of the lines
  std::string before;
  for (int rank = 0; rank < num_ranks; ++rank) {
    std::string row = row_of(job, rank, rank + 1);
    if (row != before) begins.push_back(rank);
    before = std::move(row);
  }
  if (static_cast<int>(begins.size()) > most_lines) {
    begins.clear();
    for (std::int64_t line = 0; line < most_lines; ++line)
      begins.push_back(static_cast<int>(num_ranks * line / most_lines));
  }
  begins.push_back(num_ranks);
  std::string text =
      fmt::format("  {:>11} {:>9} {:>15} {:>9}  {:<20} {:<20} {}\n", "time rank", "blocks",
                  "work ms", "idle", "weights etc.", "states", "sends a step");
  for (std::size_t line = 0; line + 1 < begins.size(); ++line) {
    const int first = begins[line], last = begins[line + 1];
    text +=
        fmt::format("  {:>11} {}", interval(fmt::format("{}", first), fmt::format("{}", last - 1)),
                    row_of(job, first, last));
  }
  return text;
}

std::string memory_lines(const JobPlan& job) {
  const auto most = std::ranges::max_element(
      job.ranks, {}, [](const JobPlan::Rank& rank) { return rank.memory.total(); });
  const MemoryForecast& memory = most->memory;
  return fmt::format(
      "memory    {} on time rank {}, which holds most\n"
      "          weights {}, gradients {}, momentum {},\n"
      "          kernel-layout copies {}, snapshot for saves {};\n"
      "          states and messages {}, stash {}\n",
      format_bytes(memory.total()), most - job.ranks.begin(), format_bytes(memory.weights),
      format_bytes(memory.gradients), format_bytes(memory.momentum),
      format_bytes(memory.packed_weights), format_bytes(memory.snapshot),
      format_bytes(memory.state), format_bytes(memory.stash));
}

/// Of devices, or of cores, that a run keeps for itself.
double hours_of(const JobPlan& job, const RunForecast& run) {
  const NodeLayout& nodes = job.plan.nodes;
  return run.seconds() / 3600 * job.num_ranks() * (nodes.has_devices ? 1 : nodes.cores_of_a_rank);
}

std::string run_lines(const JobPlan& job) {
  const RunForecast run = forecast_run(job);
  if (run.steps_an_epoch == 0)
    return fmt::format("epoch     none: the training images do not fill a mini-batch\n");
  const auto of_all = [](std::int64_t number, double seconds) {
    return format_duration(static_cast<double>(number) * seconds);
  };
  std::string text = fmt::format(
      "epoch     {} steps: {}\n"
      "run       {} steps: {}, {:.3g} {}-hours; reading comes on top\n",
      format_count(run.steps_an_epoch), of_all(run.steps_an_epoch, run.step_seconds),
      format_count(run.steps), format_duration(run.seconds()), hours_of(job, run),
      job.plan.nodes.has_devices ? "GPU" : "core");
  if (run.steps == 0) return text;
  text += fmt::format("          of it {} for {} evaluation{}, {} for {} save{} of {}\n",
                      of_all(run.num_evaluations, run.evaluation_seconds),
                      format_count(run.num_evaluations), run.num_evaluations == 1 ? "" : "s",
                      of_all(run.num_saves, run.save_seconds), format_count(run.num_saves),
                      run.num_saves == 1 ? "" : "s",
                      format_bytes(static_cast<double>(run.checkpoint_bytes)));
  const double between = static_cast<double>(run.steps_between_saves) * run.step_seconds;
  if (run.write_seconds > between && run.num_saves > 1)
    text += fmt::format(
        "          a save takes {} to the disk, and the next one comes {} later: it waits\n",
        format_duration(run.write_seconds), format_duration(between));
  return text;
}

/// "work 75%, pipeline 20%, sums 5%": the mean of the ranks. The pipeline is what they wait in it,
/// and what messages take; parts that round to nothing are left out.
std::string shares_of_step(const JobPlan& job) {
  const double step = job.step_seconds();
  const double work = 1 - job.bubble();
  std::string text = fmt::format("work {:.0f}%", 100 * work);
  const auto add = [&](const char* name, double share) {
    if (share >= 0.005) text += fmt::format(", {} {:.0f}%", name, 100 * share);
  };
  add("pipeline", job.sweep_seconds / step - work);
  add("sums", job.sum_seconds / step);
  add("update", job.update_seconds / step);
  return text;
}

}  // namespace

std::string job_text(const JobPlan& job) {
  const RunPlan& plan = job.plan;
  const Architecture& architecture = plan.architecture;
  const std::vector<int> sizes = cut_evenly(plan.config.batch_size, plan.num_micro_batches);
  std::string text = fmt::format(
      "{}-{}: blocks {}, widths {}, {} parameters\n", architecture.rule().name,
      architecture.depth(), fmt::join(architecture.blocks(), ","),
      fmt::join(architecture.widths(), ","), format_count(architecture.num_parameters()));
  text += fmt::format(
      "grid      {} time rank{} x {} replica{}; {} micro-batches of {} image{}, {} a replica\n",
      plan.placement.num_ranks(), plan.placement.num_ranks() == 1 ? "" : "s", plan.data_ranks,
      plan.data_ranks == 1 ? "" : "s", plan.num_micro_batches,
      sizes.front() == sizes.back() ? fmt::format("{}", sizes.front())
                                    : fmt::format("{} or {}", sizes.back(), sizes.front()),
      sizes.front() == 1 ? "" : "s", job.plan.micro_batches_of_a_replica());
  const int ranks_per_node = plan.nodes.ranks_per_node;
  if (ranks_per_node > 0 && job.num_ranks() > ranks_per_node)
    text += fmt::format("nodes     {} of {} ranks; between them {}\n",
                        format_count((job.num_ranks() + ranks_per_node - 1) / ranks_per_node),
                        ranks_per_node,
                        plan.nodes.network ? "the network of the machine file"
                                           : "messages are copied by the ranks, as within one");
  text += fmt::format("schedule  {} with {} slice{} a rank\n", plan.schedule->name,
                      slices_a_rank(job), slices_a_rank(job) == 1 ? "" : "s");
  text += fmt::format(
      "step      {} ms, {:.1f} images/s; efficiency {:.1f}%, {:.1f}% of the ranks' time idle\n",
      milliseconds(job.step_seconds()), job.images_per_second(), 100 * (1 - job.bubble()),
      100 * job.bubble());
  if (job.takes_slowest)
    text += "          the ranks of the machine file are of unequal speed: taken is the slowest\n";
  if (!job.knows_messages && job.num_ranks() > 1)
    text += "          the machine file is of one rank: messages are counted as free\n";
  if (plan.data_ranks > 1)
    text += fmt::format("          of it {} ms to add what is left of the replicas' gradients\n",
                        milliseconds(job.sum_seconds));
  if (job.update_seconds > 0)
    text += fmt::format("          of it {} ms to update the weights\n",
                        milliseconds(job.update_seconds));
  return text + run_lines(job) + memory_lines(job) + rank_table(job);
}

/// Bytes, by the names of `bench --json`.
Json by_use(const MemoryForecast& memory) {
  Json uses = Json::object();
  for (const auto& [use, bytes] : {std::pair{"weights", memory.weights},
                                   {"gradients", memory.gradients},
                                   {"momentum", memory.momentum},
                                   {"packed_weights", memory.packed_weights},
                                   {"state", memory.state},
                                   {"stash", memory.stash},
                                   {"snapshot", memory.snapshot}})
    uses[use] = static_cast<std::int64_t>(bytes);
  return uses;
}

Json job_json(const JobPlan& job) {
  const RunPlan& plan = job.plan;
  const RunForecast run = forecast_run(job);
  Json ranks = Json::array();
  for (int replica = 0; replica < plan.data_ranks; ++replica)
    for (std::size_t time_rank = 0; time_rank < job.ranks.size(); ++time_rank) {
      const JobPlan::Rank& rank = job.ranks[time_rank];
      Json slices = Json::array();
      for (const BlockRange& slice : rank.slices) slices.push_back({slice.first, slice.last - 1});
      ranks.push_back({{"time_rank", time_rank},
                       {"replica", replica},
                       {"blocks", num_blocks(rank)},
                       {"slices", slices},
                       {"work_seconds", rank.work_seconds},
                       {"memory_bytes", static_cast<std::int64_t>(rank.memory.total())},
                       {"memory_bytes_by_use", by_use(rank.memory)},
                       {"message_bytes", job.message_bytes(static_cast<int>(time_rank), replica)},
                       {"gradient_sum_bytes", rank.bytes_of_sums}});
    }
  return {{"step_seconds", job.step_seconds()},
          {"images_per_second", job.images_per_second()},
          {"bubble", job.bubble()},
          {"efficiency", 1 - job.bubble()},
          {"gradient_sum_seconds", job.sum_seconds},
          {"update_seconds", job.update_seconds},
          {"time_ranks", plan.placement.num_ranks()},
          {"data_ranks", plan.data_ranks},
          {"micro_batches", plan.num_micro_batches},
          {"schedule", plan.schedule->name},
          {"slices_per_rank", slices_a_rank(job)},
          {"steps_an_epoch", run.steps_an_epoch},
          {"steps", run.steps},
          {"evaluations", run.num_evaluations},
          {"evaluation_seconds", run.evaluation_seconds},
          {"saves", run.num_saves},
          {"save_seconds", run.save_seconds},
          {"checkpoint_bytes", run.checkpoint_bytes},
          {"write_seconds", run.write_seconds},
          {"run_seconds", run.seconds()},
          {plan.nodes.has_devices ? "gpu_hours" : "core_hours", hours_of(job, run)},
          {"ranks", ranks}};
}

std::string search_table(const std::vector<JobPlan>& jobs) {
  std::string text = fmt::format("{:>4} {:>11} {:>13} {:<12} {:>6} {:>10} {:>10} {:>10}  {}\n", "",
                                 "time x data", "micro-batches", "schedule", "slices", "step ms",
                                 "images/s", "memory", "what the step spends");
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const JobPlan& job = jobs[i];
    text += fmt::format("{:>4} {:>11} {:>13} {:<12} {:>6} {:>10} {:>10.1f} {:>10}  {}\n", i + 1,
                        fmt::format("{} x {}", job.plan.placement.num_ranks(), job.plan.data_ranks),
                        job.plan.num_micro_batches, job.plan.schedule->name, slices_a_rank(job),
                        milliseconds(job.step_seconds()), job.images_per_second(),
                        format_bytes(job.most_memory()), shares_of_step(job));
  }
  if (!jobs.front().plan.config.given("micro-batches"))
    text +=
        "  results depend on the number of micro-batches alone: batch norm sees one at a time\n";
  return text;
}

}  // namespace revode
