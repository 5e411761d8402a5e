// The ranks of a run as a grid, time x data: the ranks along time share the depth of one replica of
// the network, those along data hold the same slices of different replicas. Who reads, and who
// speaks, is asked here.
#pragma once

#include <string>
#include <vector>

#include "revode/comm/communicator.hpp"
#include "revode/comm/rank_order.hpp"

namespace revode {

class Grid {
 public:
  /// Of ranks that run on `hosts`, one name a rank, the same on every rank: order_ranks() says who
  /// takes which place. Collective; throws std::logic_error unless time_ranks x data_ranks are the
  /// ranks of `world`, which must outlive the grid, and of `hosts`.
  Grid(const Communicator& world, int time_ranks, int data_ranks, std::vector<std::string> hosts);
  /// Of ranks on one host: rank r of `world` is rank r % time_ranks of replica r / time_ranks.
  Grid(const Communicator& world, int time_ranks, int data_ranks);

  /// All ranks of the run.
  const Communicator& world() const { return world_; }
  /// The ranks of this replica, in the numbers that a Placement gives them.
  const Communicator& time() const { return time_; }
  /// The ranks that own what this one owns, by replica.
  const Communicator& data() const { return data_; }

  /// Where each rank of the run runs.
  const std::vector<std::string>& hosts() const { return hosts_; }
  /// Replica after replica, the rank of the run at each place.
  const RankOrder& order() const { return order_; }

  int num_replicas() const { return data_.size(); }
  int replica() const { return data_.rank(); }
  /// The replica that takes micro-batch m of a mini-batch.
  int replica_of(int micro_batch) const { return micro_batch % num_replicas(); }

  /// Prints, and writes what is no checkpoint: one rank of the run.
  bool is_printer() const { return world_.is_root(); }
  /// Reads images: one rank of each replica, the one that a Placement gives slice 0.
  bool is_reader() const { return time_.is_root(); }

 private:
  /// Of this rank, in the order.
  int place() const;

  const Communicator& world_;
  std::vector<std::string> hosts_;
  RankOrder order_;
  Communicator time_, data_;
};

}  // namespace revode
