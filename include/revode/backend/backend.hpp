// What a backend must do: the only list of it. A backend takes states through the network and
// gradients back; it knows nothing of ranks, files, optimisers or architectures.
//
// The one deep interface speaks of segments, not of tensors. A segment is a run of couplings at one
// shape
//
//   target <- gamma * target + beta * other + round(s * F(other))
//
// whose target alternates between the two slots of the state, and F is one of the forces (K: 3x3
// kernel, zero padding 1, cross-correlation; K^T its adjoint, the transposed convolution with the
// same weights; sigma = ReLU)
//
//   symmetric      F(x) = K^T sigma(K x + b)
//   antisymmetric  F(x) = sigma((K - K^T) x + b)
//
// (Chang et al., AAAI 2018, arXiv 1709.03698). round() is to the nearest multiple of 2^-grid_bits,
// ties to even, -0 to +0 (grid_bits 0: no rounding), which makes the sums exact and the inverse bit
// for bit; see docs/model.md.
//
// No coupling mixes images: a backend may take each image through the whole segment by itself.
// Results must depend on the shape, the weights, the data and the instruction set alone: never on
// the number of threads or on timing. Gradients of a micro-batch are summed over images in a fixed
// order that depends on the batch size alone, then added to exact sums.
//
// Calls return when the work is done. All pointers are to host memory, in the layouts stated, and
// must not alias unless stated. Real is float in the program; double serves the tests.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "revode/backend/exact_sum.hpp"
#include "revode/core/buffer.hpp"

namespace revode {

enum class Force { symmetric, antisymmetric };

/// The state pair of one micro-batch: slot 0 (P at the opening) and slot 1 (Q), each [batch,
/// channels, height, width].
template <typename Real>
struct StateView {
  std::array<Real*, 2> slot{};
  int batch = 0;
};

/// A run of couplings at one shape.
struct SegmentShape {
  Force force = Force::symmetric;
  int num_couplings = 0;
  int channels = 0;  ///< of one slot
  int height = 0;
  int width = 0;
  int first_target =
      0;  ///< slot that coupling 0 changes; coupling i changes slot (first_target + i) % 2
  double gamma = 1;  ///< +1 or -1, so that the inverse is exact
  double beta = 0;
  std::array<double, 2> scale{};  ///< s, by target slot; rounded to Real before use
  int grid_bits = 0;

  std::size_t kernel_size() const { return std::size_t{9} * channels * channels; }
  std::size_t plane_size() const { return static_cast<std::size_t>(height) * width; }
  /// Elements of one slot for one image.
  std::size_t image_size() const { return channels * plane_size(); }
};

/// Where the gradients of a whole segment are summed; += .
struct SegmentGradient {
  ExactSum* kernel = nullptr;  ///< [num_couplings, c, c, 3, 3]
  ExactSum* bias = nullptr;    ///< [num_couplings, c]
};

/// Couplings [first, last) of a segment.
struct CouplingRange {
  int first = 0;
  int last = 0;
};

/// How often the forward sweep left the range in which reversal is exact (docs/model.md). Sums; add
/// with +=.
struct RangeCounts {
  std::int64_t out_of_range =
      0;  ///< values (sums, and gamma * target + beta * other) of magnitude >= 2^(24 - grid_bits)
  std::int64_t rounded_to_zero = 0;  ///< increments s * F != 0 that round to zero
  RangeCounts& operator+=(const RangeCounts& more) {
    out_of_range += more.out_of_range;
    rounded_to_zero += more.rounded_to_zero;
    return *this;
  }
};

/// What advance() keeps of one micro-batch for retreat() with `--activations store`: the backend's
/// own business.
class Recording {
 public:
  virtual ~Recording() = default;
};

template <typename Real>
class Segment {
 public:
  virtual ~Segment() = default;
  virtual const SegmentShape& shape() const = 0;
  /// One phrase: how its convolutions are computed.
  virtual std::string description() const { return "direct"; }

  /// Copies weights in: kernel [num_couplings, c, c, 3, 3], bias [num_couplings, c]. To be called
  /// before the first sweep and after each change of the weights.
  virtual void load_weights(const Real* kernel, const Real* bias) = 0;

  /// Room for what advance() keeps of `batch` images over all couplings.
  virtual std::unique_ptr<Recording> make_recording(int batch) = 0;

  /// Takes `state` through the couplings of `range`, in place. `counts` += this call's. With a
  /// recording (of this segment and at least this batch), keeps there what retreat() over the same
  /// range will need.
  virtual void advance(CouplingRange range, StateView<Real> state, RangeCounts& counts,
                       Recording* recording) = 0;

  /// Takes `state` back through the couplings of `range`, last to first, in place, by solving each
  /// line for the old target; F is recomputed once and serves the inversion and the linearisation.
  /// The adjoint goes with it, in place: for each coupling
  ///
  ///   g = s * adjoint[target]
  ///   adjoint[other]  <- adjoint[other] + beta * adjoint[target] + F'(other)^T g
  ///   adjoint[target] <- gamma * adjoint[target]
  ///   gradient.kernel += dF/dK ^T g;   gradient.bias += dF/db ^T g
  ///
  /// (the rounding is taken as the identity, sigma'(0) = 0). The gradient of the micro-batch is
  /// formed in Real and added as one contribution an entry; only rows of `range` are touched.
  /// *overflow becomes at least j + 1 where an entry of coupling j is no contribution. With a
  /// recording the linearisation points are read from it and the state is set to the recorded one:
  /// same bits where reversal is exact.
  virtual void retreat(CouplingRange range, StateView<Real> state, StateView<Real> adjoint,
                       const SegmentGradient& gradient, const Recording* recording,
                       int* overflow) = 0;
};

/// Which planes of the state are the feature map at the two ends of the network: both slots joined
/// [P; Q], or one of them.
struct FeatureMap {
  bool joined = true;
  int slot = 1;  ///< where not joined

  int num_features(int channels) const { return joined ? 2 * channels : channels; }
};

/// The plane [height, width] of image n, feature f.
template <typename Real>
Real* feature_plane(const StateView<Real>& state, const FeatureMap& map, int channels,
                    std::size_t plane_size, int n, int f) {
  const int slot = map.joined ? f / channels : map.slot;
  return state.slot[slot] + (static_cast<std::size_t>(n) * channels + f % channels) * plane_size;
}

/// Means and biased variances a channel, in double: of one micro-batch while training, running
/// averages in evaluation.
struct NormStatistics {
  std::vector<double> mean;
  std::vector<double> variance;
};

/// Batch norm  y = scale * (x - mean) / sqrt(variance + epsilon) + shift,  epsilon as in the
/// paper's code's successors.
inline constexpr double norm_epsilon = 1e-5;

/// Opening: features = relu(norm(K images)), K [width1, in_channels, 3, 3] without bias, rounded
/// once to the grid.
struct OpeningShape {
  int batch = 0;
  int in_channels = 0;
  int height = 0;
  int width = 0;
  int channels = 0;  ///< of one slot
  FeatureMap features;
  int grid_bits = 0;
};

template <typename Real>
struct OpeningWeights {
  const Real* kernel = nullptr;  ///< [features, in_channels, 3, 3]
  const Real* scale = nullptr;   ///< [features]
  const Real* shift = nullptr;   ///< [features]
};

struct OpeningGradient {  ///< same shapes; +=, one contribution an entry
  ExactSum* kernel = nullptr;
  ExactSum* scale = nullptr;
  ExactSum* shift = nullptr;
};

/// Transition: 2x2 average pooling of both slots, then zero channels in front and behind (an odd
/// one behind), rounded once to the grid. in [batch, in_channels, height, width] -> out [batch,
/// out_channels, height/2, width/2], both slots.
struct TransitionShape {
  int batch = 0;
  int in_channels = 0;
  int out_channels = 0;
  int height = 0;  ///< of the input, even
  int width = 0;   ///< of the input, even
  int grid_bits = 0;

  int channels_in_front() const { return (out_channels - in_channels) / 2; }
};

/// Closing: logits = W mean_over_plane(relu(norm(features))) + b, W [classes, features].
struct ClosingShape {
  int batch = 0;
  int channels = 0;  ///< of one slot
  int height = 0;
  int width = 0;
  FeatureMap features;
  int num_classes = 0;
};

template <typename Real>
struct ClosingWeights {
  const Real* scale = nullptr;   ///< [features]
  const Real* shift = nullptr;   ///< [features]
  const Real* weight = nullptr;  ///< [classes, features]
  const Real* bias = nullptr;    ///< [classes]
};

struct ClosingGradient {  ///< same shapes; +=, one contribution an entry
  ExactSum* scale = nullptr;
  ExactSum* shift = nullptr;
  ExactSum* weight = nullptr;
  ExactSum* bias = nullptr;
};

template <typename Real>
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;
  /// One phrase for the start-up block: instruction set, lanes, threads.
  virtual std::string description() const = 0;
  /// Single-precision operations a second (2 a multiply-add) that this backend's hardware does on
  /// registers alone, with as many threads as the backend has: measured now, in about 20 ms.
  virtual double measure_peak_flops() = 0;
  /// Called now and then on the calling thread during long calls, so that messages move. May be
  /// empty.
  virtual void set_progress(std::function<void()> progress) = 0;

  virtual std::unique_ptr<Segment<Real>> make_segment(const SegmentShape& shape) = 0;

  /// Feature planes of `state` (overwritten) <- K images; images [batch, in_channels, height,
  /// width]. With `statistics`, they receive those of K images over batch, height and width.
  virtual void opening_convolve(const OpeningShape& shape, const Real* images,
                                const OpeningWeights<Real>& weights, StateView<Real> state,
                                NormStatistics* statistics) = 0;
  /// state <- the opening's output from K images in its feature planes, in place; the slot that is
  /// no feature map becomes zero.
  virtual void opening_normalise(const OpeningShape& shape, const OpeningWeights<Real>& weights,
                                 const NormStatistics& statistics, StateView<Real> state) = 0;
  /// gradient += of the adjoint of the opening's output, through the dependence of the statistics
  /// on the batch too (`statistics` are those of this batch). `state` is of no more use to the
  /// caller: its feature planes may be overwritten. *overflow becomes 1 where an entry is no
  /// contribution.
  virtual void opening_backward(const OpeningShape& shape, const Real* images,
                                const OpeningWeights<Real>& weights,
                                const NormStatistics& statistics, StateView<Real> state,
                                StateView<Real> adjoint, const OpeningGradient& gradient,
                                int* overflow) = 0;

  virtual void transition_forward(const TransitionShape& shape, StateView<Real> in,
                                  StateView<Real> out) = 0;
  /// adjoint_in (overwritten) <- transition^T adjoint_out.
  virtual void transition_backward(const TransitionShape& shape, StateView<Real> adjoint_out,
                                   StateView<Real> adjoint_in) = 0;

  /// Statistics of the features over batch, height and width.
  virtual NormStatistics closing_statistics(const ClosingShape& shape, StateView<Real> state) = 0;
  /// logits [batch, classes] (overwritten).
  virtual void closing_forward(const ClosingShape& shape, StateView<Real> state,
                               const ClosingWeights<Real>& weights,
                               const NormStatistics& statistics, Real* logits) = 0;
  /// adjoint (overwritten, both slots) and gradient (+=) from grad_logits [batch, classes]; as for
  /// the opening.
  virtual void closing_backward(const ClosingShape& shape, StateView<Real> state,
                                const ClosingWeights<Real>& weights,
                                const NormStatistics& statistics, const Real* grad_logits,
                                StateView<Real> adjoint, const ClosingGradient& gradient,
                                int* overflow) = 0;
};

/// The oracle: plain loops, one thread, a screen long each. Defined for float and double.
template <typename Real>
std::unique_ptr<Backend<Real>> make_reference_backend();

/// The fast CPU backend: vectorised for the best instruction set this processor has, `num_threads`
/// threads.
std::unique_ptr<Backend<float>> make_cpu_backend(int num_threads);

/// The instruction sets that the CPU backend has kernels for and this processor runs, one bit each;
/// the environment variable REVODE_INSTRUCTION_SET names the best one to be used. Throws an input
/// error where it names none of them.
std::int64_t instruction_sets();
/// Name of the best of `sets`, which must not be empty.
std::string best_instruction_set(std::int64_t sets);
/// From now on kernels use the best of `sets`. To be called before a CPU backend is made.
void allow_instruction_sets(std::int64_t sets);

/// Names that --backend takes, in the order of --help ("auto" is not among them).
std::vector<std::string> backend_names();

/// The backend of that name ("auto": the best that this machine has). Throws an input error for an
/// unknown name, or one that is known but cannot be had here, saying why.
std::unique_ptr<Backend<float>> make_backend(std::string_view name, int num_threads);

}  // namespace revode
