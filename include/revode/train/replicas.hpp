// What replicas of the network exchange: each takes its own micro-batches of a mini-batch, then all
// of them do the same work with the same numbers. All calls are collective over the replicas
// (Grid::data()), and free where there is one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "revode/comm/grid.hpp"
#include "revode/pipeline/network_work.hpp"
#include "revode/train/network.hpp"

namespace revode {

/// Entries of a bucket, 2 MiB: large enough that their number costs nothing, small enough that the
/// last one does not keep the others waiting.
inline constexpr std::size_t bucket_entries = std::size_t{1} << 18;

/// Adds up gradients over all replicas, still in integers, so that order and grouping leave no
/// trace: a bucket of whole couplings at a time, from when this replica's last micro-batch has gone
/// back through them, while the sweep goes on. One for each sweep.
class GradientExchange final : public GradientListener {
 public:
  explicit GradientExchange(Network& network);

  void complete(int slice, std::size_t first, std::size_t last) override;
  void progress() override;
  /// After the sweep: waits until all sums are those of all replicas. Waits for the backend's calls
  /// where it computes on a device, once.
  void finish();
  /// After finish(): the first of this rank's slices the sum of whose sums, modulo 2^64, is not
  /// that of what the replicas added.
  std::optional<int> damaged_slice() const { return damaged_slice_; }

 private:
  /// Entries [first, last) of a share's gradient.
  struct Range {
    std::size_t first = 0, last = 0;
    std::size_t size() const { return last - first; }
  };
  void start_complete_buckets();
  void start(Range range);
  void note(std::size_t share, Range range, std::span<ExactSum> sums);
  void start_checks();
  void find_damage();

  Network& network_;
  bool early_;                                ///< sums lie where the MPI library may read them
  std::vector<std::vector<Range>> complete_;  // by share, in the order of the sweep
  // Collectives start in the same order on all replicas, whatever their schedules: shares from the
  // last to the first.
  std::size_t share_;     // whose buckets are started now, + 1; 0: none is left
  std::size_t next_ = 0;  // of its ranges
  std::size_t left_ = 0;  // of its entries, not yet in a bucket
  Range bucket_;
  std::vector<Request> requests_;
  std::vector<std::uint64_t> added_;  // by share: the sum of what this replica adds, modulo 2^64
  // The lower and the upper 32 bits of these, which do not overflow where replicas add them up.
  std::vector<std::int64_t> checks_;
  std::vector<std::pair<std::size_t, Range>> exchanged_;  // share, entries
  std::optional<int> damaged_slice_;
};

/// Every replica gets the batch-norm statistics of all micro-batches: they are fetched (queued),
/// then shared, which waits for them.
void fetch_statistics(Network& network);
void share_statistics(Network& network);

/// rows [samples, row_size], on the last ranks: each replica has filled in those of its
/// micro-batches, and gets the others.
void share_rows(const Grid& grid, const MiniBatchSource& source, std::size_t row_size,
                std::vector<float>& rows);

/// Throws a run error that all ranks share, and that names rank and array, where weights or
/// velocity of a replica are not those of the first, bit for bit. Collective over all ranks.
void require_equal_replicas(Network& network);

}  // namespace revode
