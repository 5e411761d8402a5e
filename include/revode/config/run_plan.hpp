// What a run is to do, in types: made once from complete options. Here option texts end; what is
// below asks the plan, and takes from its config only numbers, paths, and names to be printed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "revode/config/config.hpp"
#include "revode/data/dataset.hpp"
#include "revode/model/architecture.hpp"
#include "revode/model/time_slice.hpp"
#include "revode/pipeline/layer_costs.hpp"
#include "revode/pipeline/placement.hpp"
#include "revode/pipeline/schedule.hpp"

namespace revode {

/// What the command does with its network, each more than the one before.
enum class NetworkUse {
  evaluation,  ///< forward alone
  gradient,    ///< back as well
  training,    ///< the weights are updated, with momentum
};

/// How --progress is set; what it comes to depends on the stream (run_log.hpp).
enum class ProgressSetting { automatic, on, off };

/// Micro-batches of a mini-batch unless --micro-batches says otherwise; fewer where the mini-batch
/// is smaller.
inline constexpr int default_micro_batches = 4;

/// What --partition cuts by.
enum class CutRule { uniform, multiply_adds, measured };

/// What --on-nonfinite does about a step without a finite result.
enum class OnNonFinite { stop, skip, rewind };

/// How often a run may go back unless --max-rewinds says otherwise.
inline constexpr int default_max_rewinds = 3;

/// Ranks of a run: so many share the depth, so many replicas of that.
struct GridShape {
  int time_ranks = 1;
  int data_ranks = 1;
};

/// Where planned ranks would be: node after node is filled, one replica behind the other.
struct NodeLayout {
  int ranks_per_node = 0;  ///< 0: all are on one
  /// What a rank keeps for itself: a device, or so many cores.
  bool has_devices = false;
  int cores_of_a_rank = 1;
  /// What moves messages between nodes while ranks compute.
  struct Network {
    double latency_seconds = 0;
    double bytes_per_second = 0;  ///< of a node
  };
  std::optional<Network> network;  ///< none: between nodes ranks copy messages themselves

  bool on_one_node(int rank, int other) const {
    return ranks_per_node == 0 || rank / ranks_per_node == other / ranks_per_node;
  }
};

struct RunPlan {
  Architecture architecture;
  Placement placement;             ///< over the time ranks
  int data_ranks;                  ///< replicas
  std::vector<BlockRange> slices;  ///< the blocks of every slice of the placement
  const ScheduleRule* schedule;
  CutRule cut_rule;
  /// What layers cost each time rank (one: all alike), by which ranks were cut and steps are
  /// simulated. Counted until they are measured (see schedule_choice.hpp).
  std::vector<LayerCosts> costs;
  bool costs_are_times;                      ///< nanoseconds of a micro-batch; else multiply-adds
  bool chooses_schedule;                     ///< --schedule auto: costs that are measured decide
  bool chooses_slices;                       ///< likewise, how many each rank has
  std::string choice;                        ///< in words what was chosen, once it is
  std::optional<std::int64_t> memory_limit;  ///< bytes of a rank
  /// Of each weight, in the layout of the kernels: at least so many, unless a machine file says it.
  double kernel_copies = 1;
  NodeLayout nodes = {};  ///< of a plan; a run measures what its messages take
  Activations activations;
  NetworkUse use;
  int num_micro_batches;
  Split split;  ///< eval, gradient, verify: the one to read
  /// Of the split; all where there is none. gradient, verify: the first mini-batch unless given.
  std::optional<SampleRange> samples;
  ProgressSetting progress;
  OnNonFinite on_nonfinite;
  int max_rewinds;  ///< OnNonFinite::rewind
  std::optional<std::int64_t> time_limit_seconds;
  Config config;  ///< after resolve(); what is printed and stored

  /// Of the replica that has most.
  int micro_batches_of_a_replica() const {
    return (num_micro_batches + data_ranks - 1) / data_ranks;
  }
};

/// Fills what the options left open (depth, blocks, widths, image size, micro-batches, epochs) with
/// what follows from the rest, so that it can be printed and stored; returns the network that they
/// describe. Throws input errors.
Architecture resolve(Config& config);

/// The grid that --time-ranks and --data-ranks ask for on so many ranks. config: resolved. Throws
/// an input error that names the grids there are where it is impossible, or the --micro-batches
/// that would do where replicas would have none.
GridShape grid_shape(const Config& config, int num_ranks);

/// config: complete but for what resolve() fills in, any checkpoint's included. placement: of the
/// time ranks of one replica; it is kept, and cut by multiply-adds. Throws input errors; among
/// others where the blocks do not suffice for its slices.
RunPlan make_plan(Config config, Placement placement, int data_ranks = 1);
/// The grid of the options on so many ranks, and as many slices a time rank as they say.
RunPlan make_plan(Config config, int num_ranks);

/// "<arch>-<depth>-<dataset>", of options that need not be complete. Throws input errors.
std::string model_name(const Config& config);

}  // namespace revode
