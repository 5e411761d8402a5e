// A network spread over the ranks, ready to be swept: what every command that computes needs, put
// together from the options.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/comm/communicator.hpp"
#include "revode/config/config.hpp"
#include "revode/core/buffer.hpp"
#include "revode/core/phase_timer.hpp"
#include "revode/data/dataset.hpp"
#include "revode/model/architecture.hpp"
#include "revode/model/parameters.hpp"
#include "revode/model/time_slice.hpp"
#include "revode/pipeline/pipeline.hpp"

namespace revode {

/// The network that the options describe. Throws input errors.
Architecture make_architecture(const Config& config);

/// Fills what the options left open (depth, blocks, widths, micro-batches, epochs) with what
/// follows from the rest, so that it can be printed and stored.
void resolve(Config& config, const Architecture& architecture);

/// Refuses --time-ranks that are not the ranks there are.
void check_ranks(const Config& config, const Communicator& communicator);

/// Micro-batches of a mini-batch unless --micro-batches says otherwise; fewer where the mini-batch
/// is smaller.
inline constexpr int default_micro_batches = 4;

class Network {
 public:
  /// Collective: agrees on the partition and on what the ranks of a host may use. Initial weights
  /// from config.seed.
  Network(const Config& config, const Architecture& architecture, const Communicator& communicator,
          int largest_micro_batch);

  const Architecture& architecture() const { return architecture_; }
  const std::vector<BlockRange>& slices() const { return slices_; }
  const ParameterMap& map() const { return map_; }
  Backend<float>& backend() { return *backend_; }
  TimeSlice<float>& slice() { return *slice_; }
  Pipeline& pipeline() { return *pipeline_; }
  const Communicator& communicator() const { return communicator_; }
  /// Measures phases from now on; see phase_timer().
  void time_phases();
  /// Sums of this rank's seconds by phase; null unless time_phases() was called.
  PhaseTimer* phase_timer() { return phase_timer_ ? &*phase_timer_ : nullptr; }

  int num_threads() const { return num_threads_; }
  int largest_micro_batch() const { return largest_micro_batch_; }

  /// Flat values of map(); after changing them call slice().load_weights().
  Buffer<float>& values() { return values_; }

  /// What images are normalised by, which is kept with the weights; on the first rank.
  ChannelStatistics input_statistics() const;
  void set_input_statistics(const ChannelStatistics& statistics);

 private:
  Architecture architecture_;
  const Communicator& communicator_;
  int largest_micro_batch_;
  int num_threads_;
  std::vector<BlockRange> slices_;
  ParameterMap map_;
  Buffer<float> values_;
  std::unique_ptr<Backend<float>> backend_;
  std::unique_ptr<TimeSlice<float>> slice_;
  std::unique_ptr<Pipeline> pipeline_;
  std::optional<PhaseTimer> phase_timer_;
};

}  // namespace revode
