// A small network over the ranks of a communicator, and mini-batches for it.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "revode/train/network.hpp"
#include "revode/train/training_step.hpp"

#include "support/mini_batch_source.hpp"

namespace revode {

inline Config small_config(const std::string& arch = "hamiltonian") {
  Config config;
  config.arch = arch;
  config.blocks = {2, 1, 1};
  config.widths = {4, 6, 10};
  config.batch_size = 8;
  config.micro_batches = 3;
  config.threads = 2;
  config.learning_rate = 0.1;
  config.smoothness = 0.01;
  // The same cut in every run.
  config.slices_per_rank = 1;
  config.partition = "flops";
  resolve(config);
  return config;
}

/// A network with what trains it.
struct SmallNetwork {
  SmallNetwork(const Config& config, const Communicator& communicator)
      : SmallNetwork(config, communicator,
                     Placement::round_robin(communicator.size(), communicator.size())) {}
  SmallNetwork(const Config& config, const Communicator& communicator, const Placement& placement)
      : SmallNetwork(config, communicator, placement, nullptr) {}
  /// As many replicas as the ranks of the placement leave.
  SmallNetwork(const Config& config, const Communicator& communicator, const Placement& placement,
               std::unique_ptr<Backend<float>> backend)
      : SmallNetwork(config, communicator, placement, std::move(backend),
                     std::vector<std::string>(communicator.size())) {}
  /// On pretended hosts, one a rank.
  SmallNetwork(const Config& config, const Communicator& communicator, const Placement& placement,
               std::unique_ptr<Backend<float>> backend, std::vector<std::string> hosts)
      : grid(communicator, placement.num_ranks(), communicator.size() / placement.num_ranks(),
             std::move(hosts)),
        network(make_plan(config, placement, grid.num_replicas()), grid, 3, std::move(backend)),
        training(network) {}

  /// The first of this rank's.
  Share<float>& share() { return *network.shares().front(); }

  Grid grid;
  Network network;
  TrainingStep training;
};

/// Entries of `slice` (a flat array of its map) whose bits are not those of the same rows of
/// `whole`.
inline std::size_t num_differing_rows(const ParameterMap& slice_map, std::span<const float> slice,
                                      const ParameterMap& whole_map, std::span<const float> whole) {
  std::size_t count = 0;
  const auto mine = slice_map.entries(), all = whole_map.entries();
  for (std::size_t e = 0; e < mine.size(); ++e) {
    const ParameterEntry& rows = *mine[e];
    count += num_differing(
        slice.subspan(rows.offset, rows.size()),
        whole.subspan(all[e]->offset + (rows.first_row - all[e]->first_row) * rows.row_size(),
                      rows.size()));
  }
  return count;
}

}  // namespace revode
