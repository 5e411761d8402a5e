// The ranks of a run as a grid, time x data: the ranks along time share the depth of one replica of
// the network, those along data hold the same slices of different replicas. Who reads, and who
// speaks, is asked here.
#pragma once

#include "revode/comm/communicator.hpp"

namespace revode {

class Grid {
 public:
  /// Replica after replica: rank r of `world` is rank r % time_ranks of replica r / time_ranks, as
  /// launchers put consecutive ranks on one host and messages go along time. Collective; throws
  /// std::logic_error unless time_ranks x data_ranks are the ranks of `world`, which must outlive
  /// the grid.
  Grid(const Communicator& world, int time_ranks, int data_ranks);

  /// All ranks of the run.
  const Communicator& world() const { return world_; }
  /// The ranks of this replica, in the numbers that a Placement gives them.
  const Communicator& time() const { return time_; }
  /// The ranks that own what this one owns, by replica.
  const Communicator& data() const { return data_; }

  int num_replicas() const { return data_.size(); }
  int replica() const { return data_.rank(); }
  /// The replica that takes micro-batch m of a mini-batch.
  int replica_of(int micro_batch) const { return micro_batch % num_replicas(); }

  /// Prints, and writes what is no checkpoint: one rank of the run.
  bool is_printer() const { return world_.is_root(); }
  /// Reads images: one rank of each replica, the one that a Placement gives slice 0.
  bool is_reader() const { return time_.is_root(); }

 private:
  const Communicator& world_;
  Communicator time_, data_;
};

}  // namespace revode
