// Plays the programs of all ranks against each other without MPI, under the strictest semantics
// that MPI allows: a send is a rendezvous, complete only once its receive is posted. Buffers and
// receives are handled as the executor does it: num_message_buffers of each direction, one receive
// posted ahead as soon as one is free, also by a rank that waits.
//
// Each rank only ever waits for what others have already decided to do (a deterministic network of
// processes), so that one order of play decides about deadlock for all.
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "revode/pipeline/schedule.hpp"

namespace revode {

class ScheduleReplay {
 public:
  /// Seconds of one micro-batch on one slice; messages take none.
  static constexpr double forward_seconds = 1, backward_seconds = 2;

  enum class Order { first_rank_first, last_rank_first };

  explicit ScheduleReplay(std::vector<Program> programs, Order order = Order::first_rank_first) {
    for (Program& program : programs) {
      Rank rank;
      for (Direction& direction : rank.directions)
        direction.slots.resize(programs.size() > 1 ? num_message_buffers : 1);
      for (const Instruction& instruction : program) {
        if (instruction.operation == Operation::receive_state)
          rank.directions[0].expected.push_back(instruction.micro_batch);
        if (instruction.operation == Operation::receive_adjoint)
          rank.directions[1].expected.push_back(instruction.micro_batch);
      }
      rank.program = std::move(program);
      ranks_.push_back(std::move(rank));
    }
    play(order);
  }

  /// What went wrong; empty where every rank came to its end.
  const std::vector<std::string>& faults() const { return faults_; }
  int most_in_flight(int rank) const { return ranks_[rank].most_in_flight; }
  /// Idle share of a rank's time up to the end of the last.
  double bubble(int rank) const {
    double end = 0;
    for (const Rank& any : ranks_) end = std::max(end, any.clock);
    return 1 - ranks_[rank].busy / end;
  }

 private:
  struct Slot {
    enum class Use { free, receiving, arrived, computing, sending } use = Use::free;
    int micro_batch = -1;
    double since = 0;  // free, posted, arrived or sent
  };
  struct Direction {  // 0: states towards the last rank, 1: adjoints towards the first
    std::vector<Slot> slots;
    std::vector<int> expected;
    std::size_t next_expected = 0;
    std::deque<int> arriving;  // slots
    double none_arriving_since = 0;
    int current = -1;
  };
  struct Rank {
    Program program;
    std::size_t next = 0;
    Direction directions[2];
    double clock = 0, busy = 0;
    int in_flight = 0, most_in_flight = 0;
  };

  int size() const { return static_cast<int>(ranks_.size()); }
  static int peer_of(int rank, int direction) { return direction == 0 ? rank + 1 : rank - 1; }

  void play(Order order) {
    for (bool moved = true; moved && faults_.empty();) {
      moved = false;
      for (int i = 0; i < size(); ++i) {
        const int rank = order == Order::first_rank_first ? i : size() - 1 - i;
        moved |= post_receives(rank);
        while (ranks_[rank].next < ranks_[rank].program.size() && faults_.empty() &&
               execute(rank, ranks_[rank].program[ranks_[rank].next])) {
          ++ranks_[rank].next;
          post_receives(rank);
          moved = true;
        }
      }
    }
    for (int rank = 0; rank < size() && faults_.size() < 4; ++rank) look_for_leftovers(rank);
  }

  void look_for_leftovers(int rank) {
    const Rank& at = ranks_[rank];
    if (at.next < at.program.size()) {
      faults_.push_back(fmt::format("rank {} never gets past: {} of micro-batch {}", rank,
                                    to_string(at.program[at.next].operation),
                                    at.program[at.next].micro_batch));
      return;
    }
    for (const Direction& direction : at.directions)
      for (const Slot& slot : direction.slots)
        if (slot.use != Slot::Use::free)
          faults_.push_back(fmt::format("rank {} ends with a message of micro-batch {} under way",
                                        rank, slot.micro_batch));
  }

  bool post_receives(int rank) {
    bool posted = false;
    for (int d = 0; d < 2; ++d) {
      Direction& direction = ranks_[rank].directions[d];
      const int free = find_free(direction);
      if (!direction.arriving.empty() || free < 0 ||
          direction.next_expected == direction.expected.size())
        continue;
      const double since = std::max(direction.slots[free].since, direction.none_arriving_since);
      direction.slots[free] = {Slot::Use::receiving, direction.expected[direction.next_expected++],
                               since};
      direction.arriving.push_back(free);
      if (const int from = peer_of(rank, 1 - d); from >= 0 && from < size()) match(from, rank, d);
      posted = true;
    }
    return posted;
  }

  static int find_free(const Direction& direction) {
    int best = -1;
    for (int i = 0; i < static_cast<int>(direction.slots.size()); ++i)
      if (direction.slots[i].use == Slot::Use::free &&
          (best < 0 || direction.slots[i].since < direction.slots[best].since))
        best = i;
    return best;
  }

  // Messages are told apart by direction and micro-batch, as the tags do.
  void match(int from, int to, int d) {
    for (Slot& sent : ranks_[from].directions[d].slots) {
      if (sent.use != Slot::Use::sending) continue;
      for (Slot& posted : ranks_[to].directions[d].slots) {
        if (posted.use != Slot::Use::receiving || posted.micro_batch != sent.micro_batch) continue;
        const double done = std::max(sent.since, posted.since);
        sent = {Slot::Use::free, -1, done};
        posted.use = Slot::Use::arrived;
        posted.since = done;
        break;
      }
    }
  }

  /// False where the rank has to wait.
  bool execute(int rank, const Instruction& instruction) {
    const int m = instruction.micro_batch;
    switch (instruction.operation) {
      case Operation::receive_state:
        return take_arrived(ranks_[rank], ranks_[rank].directions[0], m);
      case Operation::receive_adjoint:
        return take_arrived(ranks_[rank], ranks_[rank].directions[1], m);
      case Operation::forward:
        if (!compute(rank, 0, m, rank == 0, rank + 1 == size(), forward_seconds)) return false;
        ++ranks_[rank].in_flight;
        break;
      case Operation::backward:
        if (!compute(rank, 1, m, rank + 1 == size(), rank == 0, backward_seconds)) return false;
        --ranks_[rank].in_flight;
        break;
      case Operation::send_state:
        send(rank, 0, m);
        break;
      case Operation::send_adjoint:
        send(rank, 1, m);
        break;
    }
    ranks_[rank].most_in_flight = std::max(ranks_[rank].most_in_flight, ranks_[rank].in_flight);
    return true;
  }

  bool take_arrived(Rank& rank, Direction& direction, int m) {
    if (direction.arriving.empty()) return false;
    Slot& slot = direction.slots[direction.arriving.front()];
    if (slot.use != Slot::Use::arrived) return false;
    if (slot.micro_batch != m || direction.current >= 0)
      faults_.push_back(
          fmt::format("micro-batch {} arrives where {} is wanted", slot.micro_batch, m));
    rank.clock = std::max(rank.clock, slot.since);
    slot.use = Slot::Use::computing;
    direction.current = direction.arriving.front();
    direction.arriving.pop_front();
    direction.none_arriving_since = rank.clock;
    return true;
  }

  /// `begins`: here the direction begins, in a free buffer; `ends`: its buffer is free afterwards.
  bool compute(int rank, int d, int m, bool begins, bool ends, double seconds) {
    Rank& at = ranks_[rank];
    Direction& direction = at.directions[d];
    if (begins) {
      direction.current = find_free(direction);
      if (direction.current < 0) return false;
      Slot& slot = direction.slots[direction.current];
      at.clock = std::max(at.clock, slot.since);
      slot = {Slot::Use::computing, m, 0};
    }
    if (direction.current < 0 || direction.slots[direction.current].micro_batch != m) {
      faults_.push_back(fmt::format("rank {} computes micro-batch {} without its input", rank, m));
      return false;
    }
    at.clock += seconds;
    at.busy += seconds;
    if (ends) {
      direction.slots[direction.current] = {Slot::Use::free, -1, at.clock};
      direction.current = -1;
    }
    return true;
  }

  void send(int rank, int d, int m) {
    Direction& direction = ranks_[rank].directions[d];
    if (direction.current < 0 || direction.slots[direction.current].micro_batch != m) {
      faults_.push_back(fmt::format("rank {} sends micro-batch {} without having it", rank, m));
      return;
    }
    direction.slots[direction.current] = {Slot::Use::sending, m, ranks_[rank].clock};
    direction.current = -1;
    match(rank, peer_of(rank, d), d);
  }

  std::vector<Rank> ranks_;
  std::vector<std::string> faults_;
};

/// Faults that can be read off the programs alone: sends and receives of neighbours that differ in
/// number or order, work that is missing, repeated or out of order.
inline std::vector<std::string> faults_of(const std::vector<Program>& programs,
                                          int num_micro_batches, bool with_backward) {
  std::vector<std::string> faults;
  const auto of = [&](int rank, Operation operation) {
    std::vector<int> micro_batches;
    for (const Instruction& instruction : programs[rank])
      if (instruction.operation == operation) micro_batches.push_back(instruction.micro_batch);
    return micro_batches;
  };
  std::vector<int> ascending(num_micro_batches);
  for (int m = 0; m < num_micro_batches; ++m) ascending[m] = m;
  const int num_ranks = static_cast<int>(programs.size());
  for (int rank = 0; rank < num_ranks; ++rank) {
    const bool last = rank + 1 == num_ranks;
    if (of(rank, Operation::send_state) !=
        (last ? std::vector<int>{} : of(rank + 1, Operation::receive_state)))
      faults.push_back(fmt::format("states that rank {} sends are not those received", rank));
    if (of(rank, Operation::receive_adjoint) !=
        (last ? std::vector<int>{} : of(rank + 1, Operation::send_adjoint)))
      faults.push_back(fmt::format("adjoints that rank {} receives are not those sent", rank));
    if (of(rank, Operation::forward) != ascending)
      faults.push_back(fmt::format("rank {} does not go forward once a micro-batch", rank));
    if (of(rank, Operation::backward) != (with_backward ? ascending : std::vector<int>{}))
      faults.push_back(fmt::format("rank {} does not go backward once a micro-batch", rank));
    std::map<int, bool> gone_forward;
    for (const Instruction& instruction : programs[rank]) {
      if (instruction.operation == Operation::forward) gone_forward[instruction.micro_batch] = true;
      if (instruction.operation == Operation::backward && !gone_forward[instruction.micro_batch])
        faults.push_back(fmt::format("rank {} goes backward first", rank));
    }
  }
  if (!of(0, Operation::receive_state).empty() || !of(0, Operation::send_adjoint).empty())
    faults.push_back("rank 0 has no rank before");
  return faults;
}

}  // namespace revode
