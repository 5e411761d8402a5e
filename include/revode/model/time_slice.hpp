// One rank's share of the network, forward and back: segments and the transitions between them,
// with the opening on the first slice and the closing on the last. Knows nothing of ranks or
// messages: states come in and go out as flat arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/core/phase_timer.hpp"
#include "revode/model/architecture.hpp"
#include "revode/model/loss.hpp"
#include "revode/model/parameters.hpp"
#include "revode/model/slice_sizes.hpp"

namespace revode {

enum class Activations { reverse, store };

enum class Mode {
  train,     ///< batch statistics, which are kept for the running averages; keeps what backward()
             ///< needs
  evaluate,  ///< running averages; keeps nothing
  inspect,   ///< batch statistics, changes nothing, keeps nothing; looks for values that are not
             ///< finite
};

/// Where a micro-batch's gradient left the range of exact sums: the layer nearest the closing
/// (Architecture::layer_name).
struct GradientOverflow {
  int micro_batch = 0;
  int layer = 0;
};

/// A layer (Architecture::layer_name) whose output is not finite.
struct NonFiniteLayer {
  int micro_batch = 0;
  int layer = 0;
};

/// Where a state is not what it was in the forward sweep though no value left the range in which
/// reversal is exact.
struct ReversalDamage {
  int micro_batch = 0;
  int first_block = 0,
      last_block = 0;     ///< the blocks, over all stages, that it was rebuilt through
  bool was_kept = false;  ///< not rebuilt but kept: the state behind these blocks
};

/// What the backend notes of a micro-batch in one sweep; fetched together at its end.
struct MicroBatchNotes {
  StateNotes states[max_stages];  ///< of each stage; Mode::train
  LossSums loss;                  ///< last slice
  Comparison reversal;            ///< where measured: the state at the front of the slice, rebuilt
  int overflow = 0;               ///< 1 + the layer nearest the closing that overflowed; 0: none
  int non_finite = 0;             ///< 1 + the first layer; Mode::inspect

  /// Of all stages.
  RangeCounts range_counts() const {
    RangeCounts sum;
    for (const StateNotes& of_stage : states) sum += of_stage;
    return sum;
  }
};

/// Between blocks: in front of one, or behind the last that a slice has of a stage.
struct BlockEdge {
  int block = 0;  ///< over all stages
  bool is_behind = false;

  auto operator<=>(const BlockEdge&) const = default;
};

/// Looks at what passes the edges of blocks in a sweep of Mode::train. State and adjoint [2][batch,
/// channels, height, width] are in the backend's memory and hold what calls that are made here
/// read.
template <typename Real>
class Probe {
 public:
  virtual ~Probe() = default;
  virtual void see_state(int micro_batch, BlockEdge edge, std::span<const Real> state) = 0;
  /// On the way back, with the state as it was rebuilt.
  virtual void see_adjoint(int micro_batch, BlockEdge edge, std::span<const Real> state,
                           std::span<const Real> adjoint) = 0;
};

/// State arrays are [2][batch, channels, height, width], slot 0 first, contiguous, in the backend's
/// memory: what a message carries. A sweep goes from begin_sweep() to finish_sweep(); what it found
/// is there for the host after take_notes().
template <typename Real>
class TimeSlice {
 public:
  /// values: the flat array of `map` in the backend's memory, owned by the caller.
  TimeSlice(const Architecture& architecture, BlockRange range, const ParameterMap& map,
            Backend<Real>& backend, Activations activations, Real* values);
  ~TimeSlice();

  bool is_first() const { return range_.first == 0; }
  bool is_last() const { return range_.last == architecture_.num_blocks(); }
  BlockRange range() const { return range_; }

  /// Elements of the state that enters (unused on the first slice) and leaves (unused on the last).
  std::size_t input_size(int batch) const { return batch * sizes_.input; }
  std::size_t output_size(int batch) const { return batch * sizes_.output; }
  /// Elements that the arrays handed to forward() and backward() must have room for: a state (none
  /// where the slice is the whole network), and an adjoint, which is worked in.
  std::size_t message_capacity(int batch) const { return batch * sizes_.message; }
  std::size_t adjoint_capacity(int batch) const { return batch * sizes_.adjoint; }
  /// Bytes that one micro-batch of this size keeps from the forward to the backward sweep,
  /// recordings (Activations::store) included.
  std::size_t stash_bytes(int batch) const;

  /// Where backward() adds the gradient, a flat array as `values`: said once.
  void bind_gradient(ExactSum* gradient);
  /// Hands the weights in `values` to the backend. To be called before the first sweep and after
  /// each change.
  void load_weights();

  /// First slice: room in the backend's memory for the images of a micro-batch [batch, channels,
  /// height, width], which calls in front of forward() are to fill.
  Real* images(int micro_batch, int batch);
  /// Last slice: the labels of a micro-batch, to be given before forward().
  void set_labels(int micro_batch, std::span<const std::uint8_t> labels);

  /// Micro-batches are numbered from 0 in each sweep.
  void begin_sweep(int num_micro_batches);
  /// Behind the calls of all its micro-batches: what it found goes to the host. Queued.
  void finish_sweep();
  /// Waits for what it found.
  void take_notes();

  /// Takes a micro-batch through the slice: `message` holds the state that enters (but on the first
  /// slice) and receives the one that leaves (but on the last).
  void forward(int micro_batch, int batch, Mode mode, Real* message);

  /// Last slice, after forward() and before the micro-batch is released: logits [batch, classes].
  /// Waits for them.
  std::span<const Real> logits(int micro_batch);

  /// Told in backward() of entries [first, last) of the flat gradient as soon as this micro-batch
  /// adds no more to them: in chunks of whole couplings, last to first, and each entry once.
  using OnGradient = std::function<void(std::size_t first, std::size_t last)>;

  /// Takes a micro-batch back: `message` and `adjoint` hold state and adjoint of what left (on the
  /// last slice they are made here, the loss counting 1/mini_batch for each sample) and receive
  /// those of what entered (but on the first slice). The gradient += one contribution an entry.
  /// Micro-batches may go back in any order. on_gradient may be empty.
  void backward(int micro_batch, int batch, int mini_batch, Real* message, Real* message_adjoint,
                const OnGradient& on_gradient = {});

  /// Statistics of a batch norm, of the micro-batches of a sweep.
  struct SweepStatistics {
    int num_features = 0;
    StagedBuffer<double> values;  ///< means [micro-batches, features], then variances
    /// By micro-batch: how many values they are of; 0 where it did not come through this slice.
    std::vector<double> counts;
  };
  /// Of the norms at the ends that this slice has: what the last sweep (Mode::train) noted. Those
  /// of micro-batches that went through a replica are to be added before update_running_averages().
  std::vector<SweepStatistics*> sweep_statistics();
  /// Running averages in the values are updated with the statistics of the micro-batches of the
  /// sweep, in their order.
  void update_running_averages();

  /// Forgets a micro-batch that will not go back.
  void release(int micro_batch);

  /// The stages that this slice has couplings of, front to back.
  struct StagePart {
    int stage = 0;
    const Segment<Real>* segment = nullptr;  ///< lives as long as the slice
  };
  std::vector<StagePart> stage_parts() const;
  /// From now on the time of each phase goes there (null: nowhere).
  void set_phase_timer(PhaseTimer* timer) { timer_ = timer; }

  /// From now on backward() compares the state it arrives at with a copy that forward(train) keeps
  /// (one more state a micro-batch in flight).
  void measure_reversal() { measures_reversal_ = true; }

  /// Whether the sweeps from now on note digests of the states that forward(train) meets at both
  /// ends of each of the slice's segments, and hold those against them that backward() meets there.
  /// On a grid, with Activations::reverse.
  void check_reversal(bool on) { checks_reversal_ = on; }

  /// From now on sweeps go block by block and show the probe every edge (null: none).
  void set_probe(Probe<Real>* probe) { probe_ = probe; }

  // Of the last sweep, after take_notes().

  /// Last slice.
  MicroBatchResult result(int micro_batch) const;
  /// Sums over the micro-batches.
  RangeCounts range_counts() const;
  /// The largest magnitude of a state of each stage, over the micro-batches; 0 where the slice has
  /// none of it.
  std::vector<float> largest_states() const;
  Comparison reversal() const;
  /// The lowest micro-batch whose gradient left the range.
  std::optional<GradientOverflow> gradient_overflow() const;
  /// Where the reversal is checked: the first that backward() met.
  std::optional<ReversalDamage> reversal_damage() const;
  /// Mode::inspect: the lowest micro-batch in which the output of a layer of this slice held a
  /// value that is not finite, and the first such layer.
  std::optional<NonFiniteLayer> non_finite_layer() const;

 private:
  struct Piece;     // a segment, and the transition to the next stage if it is here
  struct InFlight;  // what is kept of one micro-batch
  StateView<Real> view(Real* state, const Piece& piece, int batch) const;
  std::size_t piece_size(const Piece& piece, int batch) const;
  InFlight& in_flight(int micro_batch);
  OpeningWeights<Real> opening_weights() const;
  ClosingWeights<Real> closing_weights() const;
  NormStatistics statistics_of(SweepStatistics& norm, int num_features, int micro_batch);
  void update_averages(const NormEntries& norm, SweepStatistics& statistics);
  void open(InFlight& kept, int micro_batch, int batch, Mode mode, Real* state);
  void close(InFlight& kept, int micro_batch, int batch, Mode mode, Real* state);
  void begin_backward(InFlight& kept, int micro_batch, int batch, int mini_batch, Real* adjoint);
  void finish_backward(InFlight& kept, int micro_batch, int batch, Real* state, Real* adjoint);
  int couplings_a_chunk(const Piece& piece, bool listened_to) const;
  int block_of(const Piece& piece, int j) const;
  void show(int micro_batch, BlockEdge edge, const Piece& piece, int batch, const Real* state,
            const Real* adjoint = nullptr);
  int layer_of(const Piece& piece, int j) const;
  OverflowNote overflow_note(int micro_batch, int first_layer);
  bool is_stashed(const Piece& piece) const;
  Real* place_of_state(InFlight& kept, std::size_t i, int batch, Real* message);
  Real* place_of_adjoint(std::size_t transitions, int batch, Real* adjoint);
  void copy(Real* to, const Real* from, std::size_t size);
  /// What forward() met at the ends of a segment.
  struct EdgeDigests {
    std::uint64_t front = 0, end = 0;
    bool end_is_same = false;  ///< backward() began with it
  };
  std::uint64_t digest_of_state(const Real* state, const Piece& piece, int batch);
  EdgeDigests& edge_digests(int micro_batch, std::size_t piece);
  void check_end(std::size_t piece, int micro_batch, int batch, const Real* state);
  void check_front(std::size_t piece, int micro_batch, int batch, const Real* state);
  void tell_state(std::string_view what, const Piece& piece, int batch, Real* state);
  void note_damage(std::size_t piece, int micro_batch, bool was_kept);
  void inspect(const Piece& piece, int micro_batch, int batch, Real* state);
  void find_non_finite(int micro_batch, const Real* values, std::size_t size, int layer);

  Architecture architecture_;
  BlockRange range_;
  SliceSizes sizes_;
  const ParameterMap& map_;
  Backend<Real>& backend_;
  Activations activations_;
  Real* values_;
  ExactSum* gradient_ = nullptr;
  std::vector<Piece> pieces_;
  std::map<int, std::unique_ptr<InFlight>> in_flight_;  // by micro-batch
  std::vector<std::unique_ptr<InFlight>> spare_;        // rooms to use again
  SentArrays<std::uint8_t> labels_;
  Buffer<Real> scratch_;                 // a second adjoint, for transitions
  int num_micro_batches_ = 0;            // of the sweep
  StagedBuffer<MicroBatchNotes> notes_;  // of the sweep, by micro-batch
  std::vector<MicroBatchNotes> found_;   // the same, after take_notes()
  std::vector<int> num_samples_;         // by micro-batch
  SweepStatistics opening_statistics_, closing_statistics_;
  PhaseTimer* timer_ = nullptr;
  bool measures_reversal_ = false;
  bool checks_reversal_ = false;
  std::vector<EdgeDigests> edge_digests_;  // by micro-batch, by piece
  std::vector<ReversalDamage> damage_;     // of the sweep
  Buffer<Real> looked_at_;                 // a state, where the host can't touch the backend's
  Probe<Real>* probe_ = nullptr;
};

}  // namespace revode
