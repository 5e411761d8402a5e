// The programs of all ranks played against each other in one process, by the executor and the
// mailbox that the program itself uses, over messages with a clock: how long a step takes, how long
// ranks idle, and whether anything waits for ever.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "revode/pipeline/mailbox.hpp"
#include "revode/pipeline/program.hpp"
#include "revode/pipeline/slice_work.hpp"
#include "revode/pipeline/transport.hpp"

namespace revode {

/// Told of everything that is computed, when it begins.
using OnWork = std::function<void(int rank, const Work&, double begin, double end)>;

/// How a message gets from the sender's array into the receiver's.
enum class Delivery {
  rendezvous,  ///< a send is over once its receive is posted and the message has come: the
               ///< strictest that MPI allows
  at_once,     ///< a send is over when it is made, as with small messages
  exchange,    ///< as rendezvous, but the arrays change hands
};

/// What work and messages cost, in seconds.
struct SimulationCosts {
  std::function<double(const Work&)> compute = {};
  /// From when both sides are `ready`, which is asked for in the order of these times; empty: none.
  std::function<double(int from, int to, const MessageTag&, double ready)> message = {};
  Delivery delivery = Delivery::rendezvous;
  OnWork on_work = {};  ///< may be empty
};

/// A SliceWork of one rank, made by the caller where more than time is wanted; may be empty.
using WorkOfRank = std::function<SliceWork&(int rank)>;

struct SimulationResult {
  struct Rank {
    double busy_seconds = 0;
    double end_seconds = 0;  ///< of its last work or message
  };
  std::vector<Rank> ranks;
  double seconds = 0;  ///< until the last rank is done
  /// What went wrong; empty where every rank came to its end.
  std::vector<std::string> faults;
  /// Where ranks wait for ever: pools without a free slot, as (rank, index in its program).
  std::vector<std::pair<int, std::size_t>> exhausted_pools;

  /// 1 - work / (ranks * seconds)
  double bubble() const;
};

/// slot_size: 0 where no states are stored; else `queue` is of the backend that computes in them.
SimulationResult simulate(const std::vector<Program>& programs, const Placement& placement,
                          const SimulationCosts& costs, Mailbox::SlotSize slot_size = {},
                          const WorkOfRank& work_of_rank = {}, CallQueue& queue = host_queue());

/// lower(), with as many slots more as it takes until no order of arrival makes ranks wait for
/// ever, under rendezvous. Throws std::logic_error where no number is enough.
std::vector<Program> make_programs(const std::vector<WorkOrder>& orders,
                                   const Placement& placement);
/// The same for a schedule, and for the forward sweep alone.
std::vector<Program> make_programs(const ScheduleRule& rule, const Placement& placement,
                                   int num_micro_batches);
std::vector<Program> make_forward_programs(const Placement& placement, int num_micro_batches);

}  // namespace revode
