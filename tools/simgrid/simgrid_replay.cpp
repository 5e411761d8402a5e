// The programs of a planned step on a cluster that SimGrid simulates, beside revode's own
// simulation: the second opinion on a plan. SimGrid shares links between the messages on them,
// which revode does not.
//
//   simgrid_replay --ranks 64 --time-ranks 64 --machine FILE [options of revode plan]
//
// The machine file says what connects nodes ("network"). Each rank is an actor on a core of its
// node; nodes are the ends of a star. Of a grid with several replicas one is played.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <simgrid/s4u.hpp>
#include <xbt/log.h>

#include "revode/core/digest.hpp"
#include "revode/core/error.hpp"
#include "revode/core/units.hpp"
#include "revode/pipeline/layer_costs.hpp"
#include "revode/pipeline/simulation.hpp"
#include "revode/train/job_plan.hpp"
#include "revode/train/schedule_choice.hpp"

namespace revode {
namespace {

namespace sg = simgrid::s4u;

/// Within a node messages cost their ranks, which counts as their work, and take no time more.
constexpr double no_limit = 1e18;

std::string mailbox_of(const Work& entered) {
  return fmt::format("{} {} {}", entered.sweep == Sweep::forward ? "forward" : "back",
                     entered.slice, entered.micro_batch);
}

/// What every rank needs of the step.
struct Step {
  const RunPlan& plan;
  std::vector<Program> programs;
  std::map<Work, double> seconds;  ///< messages that ranks copy included
  int batch;

  std::uint64_t message_bytes(const Work& entered) const {
    const BlockRange& slice = plan.slices[entered.slice];
    const bool forward = entered.sweep == Sweep::forward;
    const std::int64_t states = forward ? 1 : 2;  // back: with the adjoint
    return static_cast<std::uint64_t>(
        states * static_cast<std::int64_t>(sizeof(float)) *
        (batch * state_size(plan.architecture, forward ? slice.first : slice.last) +
         static_cast<std::int64_t>(digest_floats)));
  }
};

/// One rank: receives are posted into free slots in the order in which messages are sent, by actors
/// of their own, as the backend looks after messages while kernels work.
class Rank {
 public:
  Rank(int rank, const Step& step)
      : rank_(rank), step_(step), program_(step.programs[rank]), pools_(program_.pools.size()) {
    for (std::size_t i = 0; i < pools_.size(); ++i) pools_[i].free = program_.pools[i].num_slots;
  }

  void operator()() {
    for (std::size_t i = 0; i < pools_.size(); ++i) post_receives(i);
    for (const auto& [operation, work] : program_.instructions) {
      if (operation == Operation::receive) wait([&] { return slot_of_.contains(work); });
      if (operation == Operation::compute) compute(work);
      if (operation == Operation::send) send(work);
    }
  }

 private:
  struct Pool {
    int free = 0;
    std::size_t next_expected = 0;
  };

  template <typename Condition>
  void wait(Condition&& condition) {
    const std::unique_lock<sg::Mutex> lock(*mutex_);
    while (!condition()) changed_->wait(lock.mutex());
  }
  void start(const std::string& name, std::function<void()> action) {
    sg::Actor::create(fmt::format("{} of rank {}", name, rank_), sg::this_actor::get_host(),
                      std::move(action));
  }

  void post_receives(std::size_t index) {
    Pool& pool = pools_[index];
    const std::vector<Work>& expected = program_.pools[index].expected;
    while (pool.free > 0 && pool.next_expected < expected.size()) {
      --pool.free;
      const Work work = expected[pool.next_expected++];
      start("receive", [this, index, work] {
        sg::Mailbox::by_name(mailbox_of(work))->get_unique<Work>();
        slot_of_[work] = index;
        changed_->notify_all();
      });
    }
  }
  void release(std::size_t index) {
    ++pools_[index].free;
    post_receives(index);
    changed_->notify_all();
  }

  void compute(const Work& work) {
    if (!slot_of_.contains(work)) {  // a sweep begins
      std::size_t own = 0;
      while (program_.pools[own].sweep != work.sweep ||
             program_.pools[own].sender != SlotPool::own_rank)
        ++own;
      wait([&] { return pools_[own].free > 0; });
      --pools_[own].free;
      slot_of_[work] = own;
    }
    sg::this_actor::execute(step_.seconds.at(work) * giga);
    const std::size_t slot = slot_of_.extract(work).mapped();
    const int next = slice_after(work, step_.plan.placement);
    if (next < 0) {
      release(slot);
    } else if (step_.plan.placement.rank_of(next) == rank_) {
      slot_of_[{work.sweep, next, work.micro_batch}] = slot;
    } else {
      sent_from_[work] = slot;
    }
  }

  void send(const Work& work) {
    const std::size_t slot = sent_from_.extract(work).mapped();
    const Work entered{work.sweep, slice_after(work, step_.plan.placement), work.micro_batch};
    start("send", [this, slot, entered] {
      sg::Mailbox::by_name(mailbox_of(entered))
          ->put(new Work(entered), step_.message_bytes(entered));
      release(slot);
    });
  }

  int rank_;
  const Step& step_;
  const Program& program_;
  std::vector<Pool> pools_;
  std::map<Work, std::size_t> slot_of_, sent_from_;  // by what is computed there
  sg::MutexPtr mutex_ = sg::Mutex::create();
  sg::ConditionVariablePtr changed_ = sg::ConditionVariable::create();
};

/// Nodes of the plan around a switch without limits.
std::vector<sg::Host*> make_cluster(const RunPlan& plan) {
  const int num_ranks = plan.placement.num_ranks();
  const int ranks_per_node = plan.nodes.ranks_per_node > 0 ? plan.nodes.ranks_per_node : num_ranks;
  sg::NetZone* cluster = sg::create_star_zone("cluster");
  const NodeLayout::Network network = plan.nodes.network.value_or(NodeLayout::Network{0, no_limit});
  std::vector<sg::Host*> of_rank;
  for (int first = 0; first < num_ranks; first += ranks_per_node) {
    const std::string name = fmt::format("node-{}", first / ranks_per_node);
    sg::Host* node = cluster->create_host(name, giga)->set_core_count(ranks_per_node);
    const auto link = [&](const std::string& which, double bytes_per_second, double latency) {
      return cluster->create_link(name + which, bytes_per_second)->set_latency(latency)->seal();
    };
    // A port works both ways at once; a message passes two.
    const sg::Link* up = link("-up", network.bytes_per_second, network.latency_seconds / 2);
    const sg::Link* down = link("-down", network.bytes_per_second, network.latency_seconds / 2);
    const sg::Link* inside = link("-inside", no_limit, plan.costs.front().message_latency / giga);
    node->seal();
    cluster->add_route(node->get_netpoint(), nullptr, nullptr, nullptr, {sg::LinkInRoute(up)},
                       false);
    cluster->add_route(nullptr, node->get_netpoint(), nullptr, nullptr, {sg::LinkInRoute(down)},
                       false);
    cluster->add_route(node->get_netpoint(), node->get_netpoint(), nullptr, nullptr,
                       {sg::LinkInRoute(inside)}, false);
    for (int rank = first; rank < std::min(first + ranks_per_node, num_ranks); ++rank)
      of_rank.push_back(node);
  }
  cluster->seal();
  return of_rank;
}

void replay(const Config& config, sg::Engine& engine) {
  const JobPlan job = plan_job(config, *config.ranks, Machine(config.machine));
  const RunPlan& plan = job.plan;
  Step step{
      .plan = plan,
      .programs = step_programs(plan),
      .seconds = {},
      .batch = (plan.config.batch_size + plan.num_micro_batches - 1) / plan.num_micro_batches};
  simulate_step(plan, step.programs, [&](int, const Work& work, double begin, double end) {
    step.seconds[work] = (end - begin) / giga;
  });
  const std::vector<sg::Host*> hosts = make_cluster(plan);
  std::vector<std::unique_ptr<Rank>> ranks;
  for (int rank = 0; rank < plan.placement.num_ranks(); ++rank) {
    ranks.push_back(std::make_unique<Rank>(rank, step));
    sg::Actor::create(fmt::format("rank {}", rank), hosts[rank],
                      [&ranks, rank] { (*ranks[rank])(); });
  }
  engine.run();
  const double seconds = sg::Engine::get_clock();
  const int slices_a_rank = plan.placement.num_slices() / plan.placement.num_ranks();
  fmt::print(
      "{} time ranks, {} micro-batches, {} with {} slice{} a rank: sweeps {:.2f} ms by the "
      "plan, {:.2f} ms by SimGrid: {:+.2f}%\n",
      plan.placement.num_ranks(), plan.micro_batches_of_a_replica(), plan.schedule->name,
      slices_a_rank, slices_a_rank == 1 ? "" : "s", 1e3 * job.sweep_seconds, 1e3 * seconds,
      100 * (seconds / job.sweep_seconds - 1));
}

}  // namespace
}  // namespace revode

int main(int argc, char** argv) {
  simgrid::s4u::Engine engine(&argc, argv);
  xbt_log_control_set("xbt_cfg.thres:warning");
  // Bandwidths and latencies as they are given, shared fairly.
  simgrid::s4u::Engine::set_config("network/model:CM02");
  simgrid::s4u::Engine::set_config("network/TCP-gamma:1e15");
  simgrid::s4u::Engine::set_config("network/crosstraffic:0");
  simgrid::s4u::Engine::set_config("contexts/stack-size:64");
  std::vector<const char*> words{argv[0], "plan"};
  words.insert(words.end(), argv + 1, argv + argc);
  try {
    revode::replay(revode::parse_command_line(static_cast<int>(words.size()), words.data()),
                   engine);
  } catch (const revode::Error& error) {
    std::fprintf(stderr, "simgrid_replay: error: %s\n", error.what());
    return static_cast<int>(error.status());
  }
  return 0;
}
