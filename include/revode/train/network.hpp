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
#include "revode/model/share.hpp"
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
  /// Collective: agrees on what the ranks of a host may use. The blocks are cut into the slices of
  /// `placement`. Initial weights from config.seed.
  Network(const Config& config, const Architecture& architecture, const Communicator& communicator,
          const Placement& placement, int largest_micro_batch);
  /// One slice a rank.
  Network(const Config& config, const Architecture& architecture, const Communicator& communicator,
          int largest_micro_batch);

  const Architecture& architecture() const { return architecture_; }
  const Placement& placement() const { return placement_; }
  /// The blocks of every slice.
  const std::vector<BlockRange>& slices() const { return slices_; }
  Backend<float>& backend() { return *backend_; }
  /// What this rank owns, in the order of the slices.
  const std::vector<std::unique_ptr<Share>>& shares() const { return shares_; }
  /// Hands the weights of all shares to the backend; to be called after each change.
  void load_weights();
  /// Of this rank; null where it is another's.
  Share* first_share() const;
  Share* last_share() const;
  Pipeline& pipeline() { return *pipeline_; }
  const Communicator& communicator() const { return communicator_; }
  /// Measures phases from now on; see phase_timer().
  void time_phases();
  /// Sums of this rank's seconds by phase; null unless time_phases() was called.
  PhaseTimer* phase_timer() { return phase_timer_ ? &*phase_timer_ : nullptr; }

  int num_threads() const { return num_threads_; }
  int largest_micro_batch() const { return largest_micro_batch_; }

  /// What images are normalised by, which is kept with the weights; on the first rank.
  ChannelStatistics input_statistics() const;
  void set_input_statistics(const ChannelStatistics& statistics);

 private:
  Architecture architecture_;
  const Communicator& communicator_;
  int largest_micro_batch_;
  int num_threads_;
  Placement placement_;
  std::vector<BlockRange> slices_;
  std::unique_ptr<Backend<float>> backend_;
  std::vector<std::unique_ptr<Share>> shares_;
  std::unique_ptr<Pipeline> pipeline_;
  std::optional<PhaseTimer> phase_timer_;
};

}  // namespace revode
