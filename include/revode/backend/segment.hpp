// The one deep interface of a backend: it speaks of segments, not of tensors. A segment is a run of
// couplings at one shape
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
// With a precision other than fp32 the operands of each product of convolutions, kernels (K - K^T
// where that is one) and what they are applied to, are rounded to it, ties to even.
//
// No coupling mixes images: a backend may take each image through the whole segment by itself.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "revode/backend/exact_sum.hpp"
#include "revode/backend/precision.hpp"

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
  Precision precision = Precision::fp32;  ///< of what a force and its derivatives multiply

  std::size_t kernel_size() const { return std::size_t{9} * channels * channels; }
  std::size_t plane_size() const { return static_cast<std::size_t>(height) * width; }
  /// Elements of one slot for one image.
  std::size_t image_size() const { return channels * plane_size(); }
};

/// The weights of a whole segment.
template <typename Real>
struct SegmentWeights {
  const Real* kernel = nullptr;  ///< [num_couplings, c, c, 3, 3]
  const Real* bias = nullptr;    ///< [num_couplings, c]
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
  bool operator==(const CouplingRange&) const = default;
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

/// What the forward sweep notes of the states that it makes. Put together with +=.
struct StateNotes : RangeCounts {
  float largest = 0;  ///< magnitude of a value that a coupling wrote; NaN does not count

  StateNotes& operator+=(const StateNotes& more) {
    RangeCounts::operator+=(more);
    largest = std::max(largest, more.largest);
    return *this;
  }
};

/// Where a gradient that leaves the range of exact sums is noted: *highest becomes at least
/// first + i for an entry that belongs to coupling i (0 for the layers beside the couplings).
struct OverflowNote {
  int* highest = nullptr;
  int first = 1;

  void at(int i) const { *highest = std::max(*highest, first + i); }
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

  /// Where the weights are, and where retreat() adds gradients: said once. Both must stay there as
  /// long as the segment is used.
  virtual void bind(const SegmentWeights<Real>& weights) = 0;
  virtual void bind_gradient(const SegmentGradient& gradient) = 0;

  /// Takes the weights over. To be called before the first sweep and after each change of them.
  virtual void load_weights() = 0;

  /// Room for what advance() keeps of `batch` images over all couplings. May be given up while
  /// calls that use it are under way.
  virtual std::unique_ptr<Recording> make_recording(int batch) = 0;
  /// Bytes that it takes.
  virtual std::size_t recording_bytes(int batch) const = 0;

  /// Takes `state` through the couplings of `range`, in place. *notes += this call's; may be null.
  /// With a recording (of this segment and at least this batch), keeps there what retreat() over
  /// the same range will need.
  virtual void advance(CouplingRange range, StateView<Real> state, StateNotes* notes,
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
  /// formed in Real and added as one contribution an entry; only rows of `range` are touched. With
  /// a recording the linearisation points are read from it and the state is set to the recorded
  /// one: same bits where reversal is exact.
  virtual void retreat(CouplingRange range, StateView<Real> state, StateView<Real> adjoint,
                       const Recording* recording, OverflowNote overflow) = 0;
  /// Whoever wants gradients before the whole segment is done loses nothing by calling retreat()
  /// for so many couplings at a time, from the last one on.
  virtual int couplings_a_chunk() const = 0;
};

}  // namespace revode
