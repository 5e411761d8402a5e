#include "revode/train/schedule_choice.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "revode/core/error.hpp"
#include "revode/core/units.hpp"
#include "revode/pipeline/partition.hpp"
#include "revode/run/run_log.hpp"
#include "revode/train/layer_timing.hpp"
#include "revode/train/machine_file.hpp"
#include "revode/train/memory_forecast.hpp"

namespace revode {
namespace {

constexpr int most_slices_a_rank = 4;
/// Micro-batches x slices of a simulation that takes a tenth of a second; finer cuts are left out.
constexpr std::int64_t most_to_simulate = std::int64_t{1} << 16;
/// Where a simulation takes milliseconds, other cuts into several slices a rank are tried, too:
/// the more uneven slices may be, the more even are the ranks.
constexpr std::int64_t most_to_try_cuts = std::int64_t{1} << 12;
constexpr double most_even = 1;
constexpr std::array more_uneven{1.1, 1.2};
/// A finer cut takes more messages, which may be slower than they were measured.
constexpr double worth_a_finer_cut = 0.98;
/// Steps this close are equal.
constexpr double equal = 1e-3;

std::vector<LayerCosts> costs_to_cut_by(const RunPlan& plan) {
  switch (plan.cut_rule) {
    case CutRule::uniform:
      return {uniform_costs(plan.architecture)};
    case CutRule::multiply_adds:
      return {multiply_adds(plan.architecture)};
    case CutRule::measured:
      return plan.costs;
  }
  return {};
}

int slices_a_rank(const RunPlan& plan) {
  return plan.placement.num_slices() / plan.placement.num_ranks();
}

/// The cuts to look at, by their costs.
std::vector<RunPlan> with_slices(RunPlan plan, int num_slices_a_rank) {
  const int num_ranks = plan.placement.num_ranks();
  plan.placement = Placement::round_robin(num_slices_a_rank * num_ranks, num_ranks);
  std::vector<RunPlan> cuts;
  const auto add = [&](double unevenness) {
    plan.slices = partition(plan.architecture, plan.placement, costs_to_cut_by(plan), unevenness);
    if (cuts.empty() || cuts.back().slices != plan.slices) cuts.push_back(plan);
  };
  add(most_even);
  const std::int64_t to_simulate =
      std::int64_t{1} * plan.placement.num_slices() * plan.num_micro_batches;
  if (num_slices_a_rank > 1 && plan.cut_rule == CutRule::measured &&
      to_simulate <= most_to_try_cuts)
    for (const double unevenness : more_uneven) add(unevenness);
  return cuts;
}

/// A plan that may be taken.
struct Candidate {
  RunPlan plan;
  SimulationResult step;
  double bytes = 0;  ///< of the rank that needs most

  std::string in_words() const {
    return fmt::format("{} with {} slice{} a rank", plan.schedule->name, slices_a_rank(plan),
                       slices_a_rank(plan) == 1 ? "" : "s");
  }
  int idle_percent() const { return static_cast<int>(100 * step.bubble() + 0.5); }
};

Candidate examine(RunPlan plan, int largest_micro_batch) {
  Candidate candidate{.plan = std::move(plan), .step = {}};
  const std::vector<Program> programs = step_programs(candidate.plan);
  candidate.step = simulate_step(candidate.plan, programs);
  for (const MemoryForecast& rank : forecast_memory(candidate.plan, programs, largest_micro_batch))
    candidate.bytes = std::max(candidate.bytes, rank.total());
  return candidate;
}

/// Everything that the plan leaves open, coarse cuts first.
std::vector<Candidate> candidates_of(const RunPlan& plan, int largest_micro_batch) {
  std::vector<Candidate> candidates;
  const int given = slices_a_rank(plan);
  const int most = plan.chooses_slices ? most_slices_a_rank : given;
  for (int number = given; number <= most; ++number) {
    const int num_slices = number * plan.placement.num_ranks();
    const bool is_large = std::int64_t{1} * num_slices * plan.num_micro_batches > most_to_simulate;
    if (number > given && (is_large || num_slices > plan.architecture.num_blocks())) break;
    for (RunPlan& cut : with_slices(plan, number)) {
      for (const std::string& name : schedule_names()) {
        const ScheduleRule& rule = schedule_rule(name);
        if (plan.chooses_schedule ? number > 1 && !rule.plays_several_slices
                                  : &rule != plan.schedule)
          continue;
        cut.schedule = &rule;
        candidates.push_back(examine(cut, largest_micro_batch));
      }
    }
  }
  return candidates;
}

/// smallest: what needs least of all that can be played.
[[noreturn]] void refuse_memory(const Candidate& smallest) {
  throw input_error(
      "--memory-limit {}: {} needs least of what can be played here, {} on a rank for weights and "
      "states; a smaller --batch-size, more --micro-batches or more ranks need less",
      smallest.plan.config.memory_limit, smallest.in_words(), format_bytes(smallest.bytes));
}

bool is_better(const Candidate& one, const Candidate& other) {
  const double finer = slices_a_rank(one.plan) > slices_a_rank(other.plan) ? worth_a_finer_cut : 1;
  if (one.step.seconds < finer * other.step.seconds * (1 - equal)) return true;
  return finer == 1 && one.step.seconds <= other.step.seconds * (1 + equal) &&
         one.bytes < other.bytes;
}

/// Of the rank that owns the slice.
const LayerCosts& costs_of(const RunPlan& plan, int slice) {
  return plan.costs[plan.costs.size() == 1 ? 0 : plan.placement.rank_of(slice)];
}

/// What the messages of a micro-batch take where they pass from slice to slice. A state goes
/// forward, a state and its adjoint come back.
class StepMessages {
 public:
  StepMessages(const RunPlan& plan, int batch)
      : plan_(plan), sends_until_(num_nodes()), receives_until_(num_nodes()) {
    for (int slice = 1; slice < plan.placement.num_slices(); ++slice)
      boundaries_.push_back(
          {batch * static_cast<double>(state_size(plan.architecture, plan.slices[slice].first)),
           way_between(plan.placement.rank_of(slice - 1), plan.placement.rank_of(slice))});
  }

  /// What a slice's rank does for those that enter and leave it.
  SweepCost of_slice(int slice) const {
    const LayerCosts& costs = costs_of(plan_, slice);
    double cost = 0;
    for (const int behind : {slice, slice + 1}) {
      if (behind == 0 || behind == plan_.placement.num_slices()) continue;
      const auto& [values, way] = boundaries_[behind - 1];
      if (way == Way::within_node) cost += values * costs.message_value;
      if (way == Way::copied) cost += values * costs.copied_value;
    }
    return {.forward = std::llround(cost), .back = std::llround(2 * cost)};
  }

  /// Nanoseconds that one is on its way beside what ranks do, from when both sides are ready. A
  /// node sends one message after the other, and so it receives.
  double delay(int from, int to, const MessageTag& tag, double ready) {
    const int behind = tag.kind == MessageKind::state ? tag.slice : tag.slice + 1;
    const auto& [values, way] = boundaries_[behind - 1];
    if (way != Way::network) return costs_of(plan_, behind).message_latency;
    const NodeLayout::Network& network = *plan_.nodes.network;
    double &sends_until = sends_until_[node_of(from)],
           &receives_until = receives_until_[node_of(to)];
    const double begin = std::max({ready, sends_until, receives_until});
    sends_until = receives_until = begin + giga * values * sizeof(float) / network.bytes_per_second;
    return receives_until + giga * network.latency_seconds - ready;
  }

 private:
  enum class Way { none, within_node, copied, network };
  struct Boundary {
    double values;
    Way way;
  };

  /// Of a rank of the first replica.
  int node_of(int time_rank) const { return time_rank / std::max(1, plan_.nodes.ranks_per_node); }
  int num_nodes() const { return node_of(plan_.placement.num_ranks() - 1) + 1; }

  /// The farthest in any replica.
  Way way_between(int time_rank, int other) const {
    if (time_rank == other) return Way::none;
    const int num_ranks = plan_.placement.num_ranks();
    for (int first = 0; first < num_ranks * plan_.data_ranks; first += num_ranks)
      if (!plan_.nodes.on_one_node(first + time_rank, first + other))
        return plan_.nodes.network ? Way::network : Way::copied;
    return Way::within_node;
  }

  const RunPlan& plan_;
  std::vector<Boundary> boundaries_;                  // behind each slice but the last
  std::vector<double> sends_until_, receives_until_;  // by node
};

}  // namespace

std::vector<SweepCost> slice_costs(const RunPlan& plan) {
  std::vector<SweepCost> costs;
  for (int slice = 0; slice < plan.placement.num_slices(); ++slice)
    costs.push_back(slice_cost(plan.architecture, costs_of(plan, slice), plan.slices[slice]));
  return costs;
}

std::vector<Program> step_programs(const RunPlan& plan) {
  return step_programs(plan, plan.micro_batches_of_a_replica());
}

std::vector<Program> step_programs(const RunPlan& plan, int num_micro_batches) {
  return make_programs(*plan.schedule, plan.placement, num_micro_batches);
}

SimulationResult simulate_step(const RunPlan& plan, const std::vector<Program>& programs,
                               OnWork on_work) {
  const std::vector<SweepCost> work_of = slice_costs(plan);
  const int batch = cut_evenly(plan.config.batch_size, plan.num_micro_batches).front();
  StepMessages messages(plan, batch);
  std::vector<SweepCost> time_of = work_of;
  for (int slice = 0; slice < plan.placement.num_slices(); ++slice)
    time_of[slice] += messages.of_slice(slice);
  const auto compute = [&](const Work& work) {
    const SweepCost& time = time_of[work.slice];
    return static_cast<double>(work.sweep == Sweep::forward ? time.forward : time.back);
  };
  SimulationCosts costs{.compute = compute, .on_work = std::move(on_work)};
  const bool are_late = std::ranges::any_of(
      plan.costs, [](const LayerCosts& of_rank) { return of_rank.message_latency > 0; });
  if (plan.nodes.network || are_late)
    costs.message = [&](int from, int to, const MessageTag& tag, double ready) {
      return messages.delay(from, to, tag, ready);
    };
  SimulationResult result = simulate(programs, plan.placement, costs);
  // Messages keep a rank busy, but they are no work.
  for (int rank = 0; rank < plan.placement.num_ranks(); ++rank) {
    double& busy = result.ranks[rank].busy_seconds;
    busy = 0;
    for (const auto& [operation, work] : programs[rank].instructions) {
      if (operation != Operation::compute) continue;
      const SweepCost& cost = work_of[work.slice];
      busy += static_cast<double>(work.sweep == Sweep::forward ? cost.forward : cost.back);
    }
  }
  return result;
}

RunPlan choose_schedule(RunPlan plan, int largest_micro_batch) {
  const std::vector<Candidate> candidates = candidates_of(plan, largest_micro_batch);
  const Candidate *best = nullptr, *smallest = &candidates.front();
  for (const Candidate& candidate : candidates) {
    if (candidate.bytes < smallest->bytes) smallest = &candidate;
    if (plan.memory_limit && candidate.bytes > static_cast<double>(*plan.memory_limit)) continue;
    if (best == nullptr || is_better(candidate, *best)) best = &candidate;
  }
  if (best == nullptr) refuse_memory(*smallest);
  RunPlan taken = best->plan;
  if (!plan.chooses_schedule) return taken;
  const bool is_coarsest = slices_a_rank(taken) == slices_a_rank(candidates.front().plan);
  const Candidate* other = nullptr;  // the best of the coarsest cuts, or of finer ones
  for (const Candidate& candidate : candidates) {
    const bool coarsest = slices_a_rank(candidate.plan) == slices_a_rank(candidates.front().plan);
    if (coarsest != is_coarsest && (other == nullptr || is_better(candidate, *other)))
      other = &candidate;
  }
  taken.choice =
      fmt::format("auto: {}, {}% idle in the simulation", best->in_words(), best->idle_percent());
  if (other != nullptr)
    taken.choice += fmt::format("; {}, {}%", other->in_words(), other->idle_percent());
  return taken;
}

namespace {

bool leaves_something_open(const RunPlan& plan) {
  return plan.placement.num_ranks() > 1 &&
         (plan.cut_rule == CutRule::measured || plan.chooses_schedule);
}

/// Of a plan that leaves nothing open.
void require_memory(const RunPlan& plan, int largest_micro_batch) {
  if (!plan.memory_limit) return;
  const Candidate only = examine(plan, largest_micro_batch);
  if (only.bytes > static_cast<double>(*plan.memory_limit)) refuse_memory(only);
}

}  // namespace

RunPlan settle(RunPlan plan, std::vector<LayerCosts> costs, int largest_micro_batch) {
  plan.costs = std::move(costs);
  plan.costs_are_times = true;
  if (leaves_something_open(plan)) return choose_schedule(std::move(plan), largest_micro_batch);
  require_memory(plan, largest_micro_batch);
  return plan;
}

RunPlan settle(RunPlan plan, Backend<float>& backend, const Grid& grid, int largest_micro_batch) {
  const bool is_open = leaves_something_open(plan);
  const bool wants_costs =
      !plan.config.machine.empty() || !plan.config.machine_file.empty() || plan.config.plan_only;
  if (!is_open && !wants_costs) {
    grid.world().agree([&] { require_memory(plan, largest_micro_batch); });
    return plan;
  }
  std::vector<LayerCosts> costs;
  if (const std::string& file = plan.config.machine; !file.empty()) {
    std::string text;
    grid.world().agree([&] {
      if (grid.world().is_root()) text = read_machine_file(file);
    });
    text = grid.world().broadcast(text, 0);
    grid.world().agree([&] {
      const MachineFile machine(text, file);
      plan.kernel_copies = machine.kernel_copies();
      costs = machine.costs(plan.architecture, plan.placement.num_ranks(), largest_micro_batch);
    });
  } else {
    LayerCosts mine = time_layers(plan, backend, largest_micro_batch);
    time_messages(plan, grid, largest_micro_batch, mine);
    costs = agree_on_costs(plan, mine, grid);
  }
  std::optional<RunPlan> settled;
  grid.world().agree(
      [&] { settled = settle(std::move(plan), std::move(costs), largest_micro_batch); });
  return *std::move(settled);
}

}  // namespace revode
