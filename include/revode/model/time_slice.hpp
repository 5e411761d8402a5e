// One rank's share of the network, forward and back: segments and the transitions between them,
// with the opening on the first slice and the closing on the last. Knows nothing of ranks or
// messages: states come in and go out as flat arrays.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/core/phase_timer.hpp"
#include "revode/model/architecture.hpp"
#include "revode/model/loss.hpp"
#include "revode/model/parameters.hpp"

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

/// How far the backward sweep met the states that the forward sweep had left at the front of the
/// slice.
struct Reversal {
  std::int64_t num_values = 0;
  std::int64_t num_differing = 0;  ///< in any bit
  double squared_error = 0;
  double squared_norm = 0;

  Reversal& operator+=(const Reversal& more) {
    num_values += more.num_values;
    num_differing += more.num_differing;
    squared_error += more.squared_error;
    squared_norm += more.squared_norm;
    return *this;
  }
};

/// State arrays are [2][batch, channels, height, width], slot 0 first, contiguous: what a message
/// carries.
template <typename Real>
class TimeSlice {
 public:
  /// values: the flat array of `map`, owned by the caller.
  TimeSlice(const Architecture& architecture, BlockRange range, const ParameterMap& map,
            Backend<Real>& backend, Activations activations, Real* values);
  ~TimeSlice();

  bool is_first() const { return range_.first == 0; }
  bool is_last() const { return range_.last == architecture_.num_blocks(); }
  BlockRange range() const { return range_; }

  /// Elements of the state that enters (unused on the first slice) and leaves (unused on the last).
  std::size_t input_size(int batch) const;
  std::size_t output_size(int batch) const;
  /// Elements that the arrays handed to forward() and backward() must have room for: a state (none
  /// where the slice is the whole network), and an adjoint, which is worked in.
  std::size_t message_capacity(int batch) const;
  std::size_t adjoint_capacity(int batch) const;
  /// Bytes that one micro-batch of this size keeps from the forward to the backward sweep.
  std::size_t stash_bytes(int batch) const;

  /// Hands the weights in `values` to the backend. To be called before the first sweep and after
  /// each change.
  void load_weights();

  /// First slice: room for the images of a micro-batch [batch, channels, height, width], to be
  /// filled before forward().
  Real* images(int micro_batch, int batch);
  /// Last slice: the labels of a micro-batch, to be given before forward().
  void set_labels(int micro_batch, std::span<const std::uint8_t> labels);

  /// Forgets the statistics and the overflow of the last sweep.
  void begin_sweep();

  /// Takes a micro-batch through the slice: `message` holds the state that enters (but on the first
  /// slice) and receives the one that leaves (but on the last).
  void forward(int micro_batch, int batch, Mode mode, Real* message);

  /// Last slice, after forward(): loss, hits and logits [batch, classes] of a micro-batch.
  MicroBatchResult result(int micro_batch) const;
  std::span<const Real> logits(int micro_batch) const;

  /// Takes a micro-batch back: `message` and `adjoint` hold state and adjoint of what left (on the
  /// last slice they are made here, the loss counting 1/mini_batch for each sample) and receive
  /// those of what entered (but on the first slice). gradient (flat, as `map`) += one contribution
  /// an entry. Micro-batches may go back in any order.
  void backward(int micro_batch, int batch, int mini_batch, Real* message, Real* message_adjoint,
                ExactSum* gradient);

  /// Of the micro-batches that went back in this sweep, the lowest whose gradient left the range.
  const std::optional<GradientOverflow>& gradient_overflow() const { return overflow_; }

  /// Running averages in the values follow the statistics of the sweep's micro-batches, in their
  /// order: running <- 0.9 running + 0.1 batch, in double, the variance made unbiased.
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
  /// Sums since the last call.
  Reversal take_reversal();

  /// What the couplings counted since the last call.
  RangeCounts take_counts();
  /// After forward(inspect): the first layer of this slice whose output held a value that is not
  /// finite.
  const std::optional<int>& non_finite_layer() const { return non_finite_layer_; }

 private:
  struct Piece;     // a segment, and the transition behind it if there is one
  struct InFlight;  // what is kept of one micro-batch
  struct BatchStatistics {
    NormStatistics values;
    double count = 0;  // values that they are of
  };

  StateView<Real> view(Real* state, const Piece& piece, int batch) const;
  std::size_t piece_size(const Piece& piece, int batch) const;
  InFlight& in_flight(int micro_batch);
  OpeningWeights<Real> opening_weights() const;
  ClosingWeights<Real> closing_weights() const;
  void open(InFlight& kept, int micro_batch, int batch, Mode mode, Real* state);
  void close(InFlight& kept, int micro_batch, int batch, Mode mode, Real* state);
  void begin_backward(InFlight& kept, int batch, int mini_batch, Real* adjoint, ExactSum* gradient,
                      int* overflow);
  int layer_of(const Piece& piece, int j) const;
  void note_overflow(int micro_batch, int layer);
  bool has_home(const Piece& piece) const;
  Real* home(InFlight& kept, std::size_t i, int batch, Real* message) const;
  Real* adjoint_behind(std::size_t transitions, int batch, Real* adjoint);
  void compare(const std::vector<Real>& kept, const Real* rebuilt);
  void inspect(const Piece& piece, int batch, Real* state);
  void note_non_finite(const Real* values, std::size_t size, int layer);
  NormStatistics running(const NormEntries& norm) const;
  void follow(const NormEntries& norm, const std::map<int, BatchStatistics>& batches);

  Architecture architecture_;
  BlockRange range_;
  const ParameterMap& map_;
  Backend<Real>& backend_;
  Activations activations_;
  Real* values_;
  std::vector<Piece> pieces_;
  std::map<int, std::unique_ptr<InFlight>> in_flight_;  // by micro-batch
  std::vector<std::unique_ptr<InFlight>> spare_;        // rooms to use again
  Buffer<Real> scratch_;                                // a second adjoint, for transitions
  std::map<int, BatchStatistics> opening_statistics_, closing_statistics_;  // by micro-batch
  RangeCounts counts_;
  std::optional<GradientOverflow> overflow_;
  PhaseTimer* timer_ = nullptr;
  bool measures_reversal_ = false;
  Reversal reversal_;
  std::optional<int> non_finite_layer_;
};

}  // namespace revode
