#include "revode/train/job_plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "revode/backend/exact_sum.hpp"
#include "revode/core/digest.hpp"
#include "revode/core/error.hpp"
#include "revode/core/units.hpp"
#include "revode/model/parameters.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/train/machine_file.hpp"
#include "revode/train/replicas.hpp"
#include "revode/train/schedule_choice.hpp"

namespace revode {
namespace {

/// Slices x micro-batches of a job that best_jobs() still looks at: a second of simulation.
constexpr std::int64_t most_to_search = std::int64_t{1} << 17;

/// Bytes of the state of an image where the network is cut in front of `block`.
std::int64_t state_bytes(const Architecture& architecture, int block) {
  return state_size(architecture, block) * static_cast<std::int64_t>(sizeof(float));
}

/// Whether what replicas add goes over a network; else ranks copy it.
bool adds_over_network(const RunPlan& plan) {
  const int num_ranks = plan.placement.num_ranks() * plan.data_ranks;
  return plan.nodes.network && !plan.nodes.on_one_node(0, num_ranks - 1);
}

/// Replicas add `bytes` of gradients each, around a ring: 2 (D - 1) times a D-th of them goes to
/// the next. Ranks take `summed_value` nanoseconds for each sum, or a network that the ranks of a
/// node share takes them.
double seconds_of_sums(const RunPlan& plan, double bytes, double summed_value) {
  if (plan.data_ranks == 1) return 0;
  const double passes = 2.0 * (plan.data_ranks - 1);
  const double moved = passes / plan.data_ranks * bytes;
  if (!adds_over_network(plan)) return moved / sizeof(std::int64_t) * summed_value / giga;
  const NodeLayout::Network& network = *plan.nodes.network;
  const int sharing = std::min(plan.nodes.ranks_per_node, plan.placement.num_ranks());
  return passes * network.latency_seconds + moved * sharing / network.bytes_per_second;
}

JobPlan::Rank rank_of(const RunPlan& plan, int time_rank, const MemoryForecast& memory,
                      const std::vector<SweepCost>& costs) {
  const Placement& placement = plan.placement;
  JobPlan::Rank rank;
  rank.memory = memory;
  for (const int slice : placement.slices_of(time_rank)) {
    const BlockRange range = plan.slices[slice];
    rank.slices.push_back(range);
    rank.work_seconds +=
        plan.micro_batches_of_a_replica() * static_cast<double>(costs[slice].total()) / giga;
    if (!placement.is_last(slice) && placement.rank_of(slice + 1) != time_rank) {
      rank.sent_by_an_image += state_bytes(plan.architecture, range.last);
      rank.sent_by_a_micro_batch += 1;
    }
    if (!placement.is_first(slice) && placement.rank_of(slice - 1) != time_rank) {
      rank.sent_by_an_image += 2 * state_bytes(plan.architecture, range.first);
      rank.sent_by_a_micro_batch += 2;
    }
    rank.num_parameters += static_cast<std::int64_t>(ParameterMap(plan.architecture, range).size());
  }
  if (plan.data_ranks > 1)
    rank.bytes_of_sums = rank.num_parameters * static_cast<std::int64_t>(sizeof(std::int64_t));
  return rank;
}

/// When the last micro-batch of a replica goes back through a slice: seconds.
struct LastWork {
  double begin = 0, end = 0;
};

std::int64_t bytes_of_sums(const RunPlan& plan, const BlockRange& slice) {
  return static_cast<std::int64_t>(ParameterMap(plan.architecture, slice).size() *
                                   sizeof(std::int64_t));
}

/// When the gradients of slices that a network adds are those of all replicas: slice after slice,
/// the last first, each in buckets of which the first is complete when its part of the slice's last
/// work is done, and the last with the end of that.
double end_of_overlapped_sums(const RunPlan& plan, const std::vector<int>& slices,
                              const std::vector<LastWork>& last_work, double summed_value) {
  constexpr double bucket_bytes = bucket_entries * sizeof(std::int64_t);
  double end = 0;
  for (auto slice = slices.rbegin(); slice != slices.rend(); ++slice) {
    const LastWork& last = last_work[*slice];
    const auto bytes = static_cast<double>(bytes_of_sums(plan, plan.slices[*slice]));
    const double of_bucket = std::min(bytes, bucket_bytes);
    const double first = std::lerp(last.begin, last.end, of_bucket / bytes);
    end = std::max(std::max(end, first) + seconds_of_sums(plan, bytes, summed_value),
                   last.end + seconds_of_sums(plan, of_bucket, summed_value));
  }
  return end;
}

/// Nanoseconds that no job on this grid can do without: the work of the replica that has most, in
/// equal parts, and the way of one micro-batch through all layers and back.
double least_time(const Architecture& architecture, const std::vector<LayerCosts>& costs,
                  int num_micro_batches, int num_time_ranks) {
  double fastest = std::numeric_limits<double>::infinity();
  for (const LayerCosts& of_rank : costs) {
    // Without visits, which depend on the cut.
    LayerCosts blocks_alone = of_rank;
    std::ranges::fill(blocks_alone.visits, SweepCost{});
    const BlockRange all{0, architecture.num_blocks()};
    fastest =
        std::min(fastest, static_cast<double>(slice_cost(architecture, blocks_alone, all).total()));
  }
  return fastest * std::max(1.0, double{1} * num_micro_batches / num_time_ranks);
}

/// A grid and micro-batches to look at.
struct Proposal {
  Config config;
  double least_seconds;
};

std::vector<Proposal> proposals(const Config& config, int num_ranks, const Machine& machine) {
  std::vector<Proposal> all;
  for (int time_ranks = 1; time_ranks <= num_ranks; ++time_ranks) {
    const int data_ranks = num_ranks / time_ranks;
    if (num_ranks % time_ranks != 0 || config.time_ranks.value_or(time_ranks) != time_ranks ||
        config.data_ranks.value_or(data_ranks) != data_ranks)
      continue;
    const int most = std::min(config.batch_size, most_contributions);
    std::vector<std::int64_t> choices;  // of micro-batches
    if (config.given("micro-batches")) {
      choices.push_back(*config.micro_batches);
    } else {
      for (std::int64_t number = data_ranks; number <= most; number *= 2) choices.push_back(number);
    }
    for (const std::int64_t num_micro_batches : choices) {
      const std::int64_t of_replica = (num_micro_batches + data_ranks - 1) / data_ranks;
      const bool is_long = of_replica * time_ranks > most_to_search;
      if (data_ranks > num_micro_batches || (is_long && !config.given("micro-batches"))) continue;
      Config one = config;
      one.time_ranks = time_ranks;
      one.data_ranks = data_ranks;
      one.micro_batches = static_cast<int>(num_micro_batches);
      const Architecture architecture = resolve(one);
      if (time_ranks * one.slices_per_rank.value_or(1) > architecture.num_blocks()) continue;
      const int micro_batch = cut_evenly(one.batch_size, *one.micro_batches).front();
      const double least =
          least_time(architecture, machine.costs(architecture, time_ranks, micro_batch).ranks,
                     static_cast<int>(of_replica), time_ranks);
      all.push_back({std::move(one), least / giga});
    }
  }
  std::ranges::stable_sort(all, {}, &Proposal::least_seconds);
  return all;
}

bool is_better(const JobPlan& one, const JobPlan& other) {
  return std::pair(one.step_seconds(), one.most_memory()) <
         std::pair(other.step_seconds(), other.most_memory());
}

}  // namespace

double JobPlan::bubble() const {
  double work = 0;
  for (const Rank& rank : ranks) work += rank.work_seconds;
  return 1 - work / (static_cast<double>(ranks.size()) * step_seconds());
}

std::int64_t JobPlan::message_bytes(int time_rank, int replica) const {
  const std::vector<int> sizes = cut_evenly(plan.config.batch_size, plan.num_micro_batches);
  constexpr auto digest_bytes = static_cast<std::int64_t>(digest_floats * sizeof(float));
  const Rank& rank = ranks[time_rank];
  std::int64_t bytes = 0;
  for (std::size_t m = replica; m < sizes.size(); m += plan.data_ranks)
    bytes += sizes[m] * rank.sent_by_an_image + rank.sent_by_a_micro_batch * digest_bytes;
  return bytes;
}

double JobPlan::most_memory() const {
  double most = 0;
  for (const Rank& rank : ranks) most = std::max(most, rank.memory.total());
  return most;
}

Machine::Machine(const std::string& file) : file_(read_machine_file(file), file) {}

Machine::Costs Machine::costs(const Architecture& architecture, int num_time_ranks,
                              int micro_batch) const {
  const int num_ranks = file_.num_ranks();
  std::vector<LayerCosts> ranks = file_.costs(architecture, num_ranks, micro_batch);
  if (num_ranks == 1 || num_ranks == num_time_ranks) return {std::move(ranks)};
  const BlockRange all{0, architecture.num_blocks()};
  const auto whole = [&](const LayerCosts& costs) {
    return slice_cost(architecture, costs, all).total();
  };
  return {{*std::ranges::max_element(ranks, {}, whole)}, true};
}

void Machine::require_same(const Config& config) const {
  const std::string measured = file_.activations();
  REVODE_REQUIRE(measured.empty() || measured == config.activations,
                 "--activations {}: the layers of --machine {} were timed with {}; revode bench "
                 "--activations {} --machine-file FILE times them so",
                 config.activations, file_.name(), measured, config.activations);
}

JobPlan plan_job(const Config& config, int num_ranks, const Machine& machine) {
  machine.require_same(config);
  RunPlan plan = make_plan(config, num_ranks);
  plan.kernel_copies = machine.file().kernel_copies();
  plan.nodes = machine.file().nodes();
  if (config.ranks_per_node) plan.nodes.ranks_per_node = *config.ranks_per_node;
  const int micro_batch = cut_evenly(plan.config.batch_size, plan.num_micro_batches).front();
  Machine::Costs costs = machine.costs(plan.architecture, plan.placement.num_ranks(), micro_batch);
  JobPlan job =
      describe_job(settle(std::move(plan), std::move(costs.ranks), micro_batch), &machine.file());
  job.takes_slowest = costs.takes_slowest;
  return job;
}

JobPlan describe_job(RunPlan settled, const MachineFile* machine) {
  JobPlan job{.plan = std::move(settled), .ranks = {}};
  const RunPlan& plan = job.plan;
  const int micro_batch = cut_evenly(plan.config.batch_size, plan.num_micro_batches).front();
  const std::vector<SweepCost> work = slice_costs(plan);
  const std::vector<Program> programs = step_programs(plan);
  const std::vector<MemoryForecast> memory = forecast_memory(plan, programs, micro_batch);
  double copied_value = 0;
  for (const LayerCosts& of_rank : plan.costs)
    copied_value = std::max(copied_value, of_rank.copied_value);
  job.knows_messages = copied_value > 0;
  double summed_value = machine != nullptr ? machine->summed_value() : 0;
  // Not measured: as much as copying takes, two floats sent and received.
  if (summed_value == 0) summed_value = 2 * 2 * copied_value;
  std::vector<LastWork> last_work(plan.slices.size());
  const SimulationResult sweep =
      simulate_step(plan, programs, [&](int, const Work& done, double begin, double end) {
        if (done.sweep == Sweep::backward) last_work[done.slice] = {begin / giga, end / giga};
      });
  job.sweep_seconds = sweep.seconds / giga;
  std::int64_t most_parameters = 0;
  double sums_end = job.sweep_seconds;
  for (int time_rank = 0; time_rank < plan.placement.num_ranks(); ++time_rank) {
    JobPlan::Rank rank = rank_of(plan, time_rank, memory[time_rank], work);
    rank.sweep_end = sweep.ranks[time_rank].end_seconds / giga;
    rank.sum_seconds = seconds_of_sums(plan, static_cast<double>(rank.bytes_of_sums), summed_value);
    if (adds_over_network(plan) && !plan.nodes.has_devices) {
      const std::vector<int>& slices = plan.placement.slices_of(time_rank);
      const double end = end_of_overlapped_sums(plan, slices, last_work, summed_value);
      rank.sum_seconds = std::max(0.0, end - rank.sweep_end);
    }
    sums_end = std::max(sums_end, rank.sweep_end + rank.sum_seconds);
    most_parameters = std::max(most_parameters, rank.num_parameters);
    job.ranks.push_back(std::move(rank));
  }
  job.sum_seconds = sums_end - job.sweep_seconds;
  if (machine != nullptr) {
    job.update_seconds = static_cast<double>(most_parameters) * machine->update_value() / giga;
    job.checkpoint_rate = machine->checkpoint_rate();
  }
  return job;
}

std::vector<PlannedWork> planned_work(const JobPlan& job) {
  std::vector<PlannedWork> all;
  const int replicas = job.plan.data_ranks;
  simulate_step(job.plan, step_programs(job.plan),
                [&](int rank, const Work& work, double begin, double end) {
                  const bool forward = work.sweep == Sweep::forward;
                  all.push_back({.rank = rank,
                                 .action = forward ? TraceAction::forward : TraceAction::backward,
                                 .begin = begin / giga,
                                 .end = end / giga,
                                 .micro_batch = work.micro_batch * replicas,
                                 .slice = work.slice});
                });
  const double update = job.sweep_seconds + job.sum_seconds;
  const auto add = [&](int rank, TraceAction action, double begin, double seconds) {
    if (seconds > 0)
      all.push_back({.rank = rank, .action = action, .begin = begin, .end = begin + seconds});
  };
  for (int rank = 0; rank < job.plan.placement.num_ranks(); ++rank) {
    const JobPlan::Rank& of_rank = job.ranks[rank];
    add(rank, TraceAction::allreduce, of_rank.sweep_end, of_rank.sum_seconds);
    add(rank, TraceAction::optimizer, update, job.update_seconds);
  }
  return all;
}

std::vector<JobPlan> best_jobs(const Config& config, int num_ranks, const Machine& machine,
                               std::size_t most) {
  std::vector<JobPlan> best;
  std::optional<Error> refused;
  for (const Proposal& proposal : proposals(config, num_ranks, machine)) {
    if (best.size() == most && proposal.least_seconds > best.back().step_seconds()) break;
    try {
      JobPlan job = plan_job(proposal.config, num_ranks, machine);
      best.insert(std::ranges::upper_bound(best, job, is_better), std::move(job));
      if (best.size() > most) best.pop_back();
    } catch (const Error& error) {  // --memory-limit
      refused = error;
    }
  }
  if (!best.empty()) return best;
  if (refused) throw Error(*refused);
  if (config.time_ranks || config.data_ranks) make_plan(config, num_ranks);  // says what is wrong
  Config resolved = config;
  throw input_error(
      "--ranks {}: a grid has at most as many time ranks as the network has blocks, {}, and as "
      "many "
      "replicas as there are micro-batches, {}; fewer ranks would do, or more micro-batches",
      num_ranks, resolve(resolved).num_blocks(),
      config.given("micro-batches") ? *config.micro_batches : config.batch_size);
}

}  // namespace revode
