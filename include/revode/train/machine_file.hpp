// The machine file: what layers took where they were measured, to cut and plan by without measuring
// again. JSON; written by `bench --machine-file FILE`, read by `--machine FILE`.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "revode/config/run_plan.hpp"
#include "revode/model/architecture.hpp"
#include "revode/pipeline/layer_costs.hpp"

namespace revode {

/// Nanoseconds of a micro-batch, of each time rank or one for all.
struct TimedMicroBatch {
  int images;
  std::vector<LayerCosts> costs;
};

/// One entry a time rank, or one where they are alike: each layer of the network with its seconds
/// for one image, forward and back, in micro-batches of every size that was timed. The first one
/// says what messages cost.
nlohmann::ordered_json machine_ranks(const Architecture& architecture,
                                     const std::vector<TimedMicroBatch>& timed);

/// Text of the file. For one process. Throws an input error.
std::string read_machine_file(const std::string& file);

/// What a machine file says. Every function throws input errors that name the file, and what it
/// lacks or has of the wrong kind.
class MachineFile {
 public:
  /// file: its name, for errors.
  MachineFile(const std::string& text, std::string file);

  const std::string& name() const { return file_; }
  /// Ranks whose layers it tells: one for all, or each time rank of a run.
  int num_ranks() const;
  /// Nanoseconds of `micro_batch` images, of each time rank or one for all: between two sizes that
  /// were timed on a straight line, beyond them in proportion to the images.
  std::vector<LayerCosts> costs(const Architecture& architecture, int num_time_ranks,
                                int micro_batch) const;
  /// Nanoseconds of a rank for each of its parameters, once a step; 0 where the file does not say.
  double update_value() const;
  /// Nanoseconds of a rank for each 64-bit sum that it adds to and passes on in a ring of replicas;
  /// 0 where the file does not say.
  double summed_value() const;
  /// Bytes a second that reach the disk; 0 where the file does not say.
  double checkpoint_rate() const;
  /// Copies of each weight that the kernels keep in layouts of their own; 1 where the file does not
  /// say.
  double kernel_copies() const;
  /// How many ranks a host has devices for, or processors for as many threads as were timed, and
  /// the network between hosts, where the file says so.
  NodeLayout nodes() const;
  /// --activations of the bench that wrote it, empty where it does not say.
  std::string activations() const;

 private:
  std::string file_;
  nlohmann::ordered_json machine_;
};

}  // namespace revode
