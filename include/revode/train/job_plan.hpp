// What training would take on ranks that need not be there: a run's plan, settled by the costs of a
// machine file and played in the simulation. Needs no MPI.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "revode/config/config.hpp"
#include "revode/config/run_plan.hpp"
#include "revode/train/machine_file.hpp"
#include "revode/train/memory_forecast.hpp"
#include "revode/train/trace_file.hpp"

namespace revode {

/// A run on so many ranks, and what a step of it takes.
struct JobPlan {
  /// A time rank; those of all replicas are alike.
  struct Rank {
    std::vector<BlockRange> slices;
    double work_seconds = 0;                 ///< a step
    double sweep_end = 0;                    ///< seconds from the step's beginning
    double sum_seconds = 0;                  ///< from then on: what is left to add of gradients
    MemoryForecast memory;                   ///< bytes
    std::int64_t sent_by_an_image = 0;       ///< bytes of states and adjoints, forward and back
    std::int64_t sent_by_a_micro_batch = 0;  ///< messages that these are in
    std::int64_t num_parameters = 0;
    std::int64_t bytes_of_sums = 0;  ///< of the gradients that replicas add
  };

  RunPlan plan;
  std::vector<Rank> ranks;
  double sweep_seconds = 0;  ///< forward and back, of the replica with most micro-batches
  /// What is left to add of the gradients when the last rank's sweep is over: each time rank adds
  /// its own with the other replicas, as around a ring. Ranks that copy them begin at the end of
  /// their own sweep; a network between nodes takes them bucket by bucket while they sweep, but for
  /// those of devices.
  double sum_seconds = 0;
  bool knows_messages = true;  ///< else the machine file is of one rank, and messages are free
  bool takes_slowest = false;  ///< the machine's ranks are of unequal speed, and others than these

  double update_seconds = 0;   ///< gradients become weights, on the rank that has most of them
  double checkpoint_rate = 0;  ///< bytes a second to the disk; 0: the machine file says none

  double step_seconds() const { return sweep_seconds + sum_seconds + update_seconds; }
  double images_per_second() const { return plan.config.batch_size / step_seconds(); }
  /// 1 - work / (time ranks x step)
  double bubble() const;
  int num_ranks() const { return plan.placement.num_ranks() * plan.data_ranks; }
  /// Bytes that a time rank of a replica sends in a step to its neighbours in time.
  std::int64_t message_bytes(int time_rank, int replica) const;
  double most_memory() const;
};

/// The costs of layers by network and micro-batch, read once.
class Machine {
 public:
  /// Throws an input error.
  explicit Machine(const std::string& file);
  const MachineFile& file() const { return file_; }
  struct Costs {
    std::vector<LayerCosts> ranks;  ///< of each time rank, or one for all
    bool takes_slowest = false;
  };
  /// Nanoseconds of `micro_batch` images. Where the file has ranks of unequal speed, but not as
  /// many, all are taken to be as its slowest one. Throws an input error that names the file.
  Costs costs(const Architecture& architecture, int num_time_ranks, int micro_batch) const;
  /// Throws an input error where the layers were timed with other --activations than these.
  void require_same(const Config& config) const;

 private:
  MachineFile file_;
};

/// settled: its costs are times. machine: what they do not tell; null: nothing does.
JobPlan describe_job(RunPlan settled, const MachineFile* machine);

/// Throws input errors, as a run on so many ranks would.
JobPlan plan_job(const Config& config, int num_ranks, const Machine& machine);

/// What each time rank of the first replica does in a step, messages counted with the work.
std::vector<PlannedWork> planned_work(const JobPlan& job);

/// The fastest jobs on all grids of so many ranks, with all micro-batches that the options leave
/// open (powers of two a replica), best first, `most` at the most; of equally fast ones the one
/// that needs least memory. One job a grid and number of micro-batches. Throws an input error
/// where nothing fits into --memory-limit.
std::vector<JobPlan> best_jobs(const Config& config, int num_ranks, const Machine& machine,
                               std::size_t most);

}  // namespace revode
