#include "revode/pipeline/program.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>

namespace revode {
namespace {

using PoolKey = std::pair<Sweep, int>;

/// Counts the slots of each pool that a rank's program holds at once.
class SlotCount {
 public:
  explicit SlotCount(std::vector<SlotPool>& pools) {
    for (SlotPool& pool : pools) {
      of_[{pool.sweep, pool.sender}].pool = &pool;
      int place = 0;
      for (const Work& work : pool.expected) place_of_[work] = ++place;
    }
  }

  /// The input of `work` arrives. What its sender sent before has arrived too.
  void arrive(const Work& work, int sender) {
    Use& use = of_[{work.sweep, sender}];
    const int place = place_of_.at(work);
    if (place > use.arrived) take(use, place - use.arrived);
    use.arrived = std::max(use.arrived, place);
    pool_of_[work] = &use;
  }
  void begin(const Work& work) {
    Use& use = of_[{work.sweep, SlotPool::own_rank}];
    take(use, 1);
    pool_of_[work] = &use;
  }
  void hand_over(const Work& from, const Work& to) { pool_of_[to] = pool_of_[from]; }
  void end(const Work& work) { --pool_of_[work]->held; }
  void send(const Work& work) {
    --pool_of_[work]->held;
    pool_of_[work]->sends = true;
  }

  /// Sets num_slots.
  void apply() {
    for (auto& [key, use] : of_) {
      const int messages = static_cast<int>(use.pool->expected.size());
      const int ahead = messages > 1 ? 1 : 0;
      use.pool->num_slots = use.most + (use.sends ? 1 : 0) + ahead;
      if (messages > 0) use.pool->num_slots = std::min(use.pool->num_slots, messages);
    }
  }

 private:
  struct Use {
    SlotPool* pool = nullptr;
    int arrived = 0, held = 0, most = 0;
    bool sends = false;
  };
  static void take(Use& use, int count) {
    use.held += count;
    use.most = std::max(use.most, use.held);
  }

  std::map<PoolKey, Use> of_;
  std::map<Work, int> place_of_;  // among what its sender sends, from 1
  std::map<Work, Use*> pool_of_;
};

Work next_of(const Work& work, int slice) { return {work.sweep, slice, work.micro_batch}; }

}  // namespace

std::string to_string(const Instruction& instruction) {
  constexpr std::string_view names[] = {"receive", "compute", "send"};
  const Work& work = instruction.work;
  return fmt::format("{} of micro-batch {} {} at slice {}",
                     names[static_cast<int>(instruction.operation)], work.micro_batch,
                     work.sweep == Sweep::forward ? "forward" : "backward", work.slice);
}

int slice_before(const Work& work, const Placement& placement) {
  if (work.sweep == Sweep::forward) return work.slice - 1;
  return placement.is_last(work.slice) ? -1 : work.slice + 1;
}

int slice_after(const Work& work, const Placement& placement) {
  if (work.sweep == Sweep::backward) return work.slice - 1;
  return placement.is_last(work.slice) ? -1 : work.slice + 1;
}

std::vector<Program> lower(const std::vector<WorkOrder>& orders, const Placement& placement) {
  const int num_ranks = placement.num_ranks();
  std::vector<Program> programs(num_ranks);
  std::vector<std::map<PoolKey, std::vector<Work>>> expected(num_ranks);
  for (int rank = 0; rank < num_ranks; ++rank) {
    for (const Work& work : orders[rank]) {
      const int before = slice_before(work, placement), after = slice_after(work, placement);
      std::vector<Instruction>& instructions = programs[rank].instructions;
      if (before < 0) expected[rank][{work.sweep, SlotPool::own_rank}];
      if (before >= 0 && placement.rank_of(before) != rank)
        instructions.push_back({Operation::receive, work});
      instructions.push_back({Operation::compute, work});
      if (after < 0 || placement.rank_of(after) == rank) continue;
      instructions.push_back({Operation::send, work});
      expected[placement.rank_of(after)][{work.sweep, rank}].push_back(next_of(work, after));
    }
  }
  for (int rank = 0; rank < num_ranks; ++rank) {
    Program& program = programs[rank];
    for (auto& [key, works] : expected[rank])
      program.pools.push_back({key.first, key.second, std::move(works), 0});
    SlotCount count(program.pools);
    for (const auto& [operation, work] : program.instructions) {
      const int before = slice_before(work, placement), after = slice_after(work, placement);
      switch (operation) {
        case Operation::receive:
          count.arrive(work, placement.rank_of(before));
          break;
        case Operation::compute:
          if (before < 0) count.begin(work);
          if (after < 0) count.end(work);
          if (after >= 0 && placement.rank_of(after) == rank)
            count.hand_over(work, next_of(work, after));
          break;
        case Operation::send:
          count.send(work);
          break;
      }
    }
    count.apply();
  }
  return programs;
}

}  // namespace revode
