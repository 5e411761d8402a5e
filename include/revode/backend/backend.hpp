// What a backend must do: the only list of it. A backend takes states through the network and
// gradients back; it knows nothing of ranks, files, optimisers or architectures.
//
// Results must depend on the shape, the weights, the data and the instruction set alone: never on
// the number of threads or on timing. Gradients of a micro-batch are summed over images in a fixed
// order that depends on the batch size alone, then added to exact sums.
//
// All arrays live in the backend's memory (memory.hpp says when calls take effect), in the layouts
// stated, and must not alias unless stated; so do results, which callers fetch when they have them
// all. Shapes and other structs are read when the call is made. Real is float in the program;
// double serves the tests.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "revode/backend/arrays.hpp"
#include "revode/backend/ends.hpp"
#include "revode/backend/images.hpp"
#include "revode/backend/memory.hpp"
#include "revode/backend/segment.hpp"
#include "revode/backend/work_counts.hpp"

namespace revode {

template <typename Real>
class Backend : public CallQueue {
 public:
  virtual std::string_view name() const = 0;
  /// One phrase for the start-up block: instruction set, lanes, threads.
  virtual std::string description() const = 0;
  /// Devices of this host that ranks may have one each of; 0: it computes with the ranks' threads.
  virtual int num_devices() const { return 0; }
  /// Operations a second (2 a multiply-add) that this backend's hardware does on registers alone
  /// in a precision that it multiplies in, with as many threads as the backend has: measured now,
  /// in about 20 ms, or of a device by its data.
  virtual double measure_peak_flops(Precision precision) = 0;
  /// Whether its segments multiply in this precision.
  virtual bool multiplies_in(Precision precision) const { return precision == Precision::fp32; }
  /// Of a backend that computes on a device.
  virtual std::optional<WorkCounts> work_counts() const { return std::nullopt; }
  /// Called now and then on the calling thread during long calls, so that messages move. May be
  /// empty.
  virtual void set_progress(std::function<void()> progress) = 0;

  virtual std::unique_ptr<Segment<Real>> make_segment(const SegmentShape& shape) = 0;

  /// images [drawn, channels, height, width] (overwritten) <- normalised, cropped, mirrored: with
  /// x' = x, or width - 1 - x where flipped, and 0 where that lies outside of the stored image,
  ///   image[c][y][x] = (pixels[index][c][y + row][x' + column] / 255 - mean[c]) / deviation[c]
  /// rounded after each operation, so that every backend has the same bits. drawn: 0 <= index <
  /// num_images, in any order, also twice.
  virtual void cut_images(const StoredImages<Real>& stored, const std::vector<DrawnImage>& drawn,
                          Real* images) = 0;

  /// Feature planes of `state` (overwritten) <- K images; images [batch, in_channels, height,
  /// width]. `statistics` (overwritten) are those of K images over batch, height and width, unless
  /// its pointers are null.
  virtual void opening_convolve(const OpeningShape& shape, const Real* images,
                                const OpeningWeights<Real>& weights, StateView<Real> state,
                                NormStatistics statistics) = 0;
  /// state <- the opening's output from K images in its feature planes, in place; the slot that is
  /// no feature map becomes zero.
  virtual void opening_normalise(const OpeningShape& shape, const OpeningWeights<Real>& weights,
                                 NormStatistics statistics, StateView<Real> state) = 0;
  /// gradient += of the adjoint of the opening's output, through the dependence of the statistics
  /// on the batch too (`statistics` are those of this batch). `state` is of no more use to the
  /// caller: its feature planes may be overwritten.
  virtual void opening_backward(const OpeningShape& shape, const Real* images,
                                const OpeningWeights<Real>& weights, NormStatistics statistics,
                                StateView<Real> state, StateView<Real> adjoint,
                                const OpeningGradient& gradient, OverflowNote overflow) = 0;

  virtual void transition_forward(const TransitionShape& shape, StateView<Real> in,
                                  StateView<Real> out) = 0;
  /// adjoint_in (overwritten) <- transition^T adjoint_out.
  virtual void transition_backward(const TransitionShape& shape, StateView<Real> adjoint_out,
                                   StateView<Real> adjoint_in) = 0;

  /// Statistics (overwritten) of the features over batch, height and width.
  virtual void closing_statistics(const ClosingShape& shape, StateView<Real> state,
                                  NormStatistics statistics) = 0;
  /// logits [batch, classes] (overwritten).
  virtual void closing_forward(const ClosingShape& shape, StateView<Real> state,
                               const ClosingWeights<Real>& weights, NormStatistics statistics,
                               Real* logits) = 0;
  /// adjoint (overwritten, both slots) and gradient (+=) from grad_logits [batch, classes]; as for
  /// the opening.
  virtual void closing_backward(const ClosingShape& shape, StateView<Real> state,
                                const ClosingWeights<Real>& weights, NormStatistics statistics,
                                const Real* grad_logits, StateView<Real> adjoint,
                                const ClosingGradient& gradient, OverflowNote overflow) = 0;

  /// loss_n = log(sum_k exp(l_nk)) - l_n,label, shifted by the largest logit; a hit where the
  /// largest (the first of equals) is the label's. *sums (overwritten) in double.
  /// probabilities [batch, classes] (overwritten): the softmax.
  virtual void softmax_cross_entropy(const LossShape& shape, const Real* logits,
                                     const std::uint8_t* labels, double* probabilities,
                                     LossSums* sums) = 0;
  /// grad_logits [batch, classes] (overwritten) <- d(loss / mini_batch)/dlogits
  ///   = (softmax - one at the label) / mini_batch
  virtual void softmax_cross_entropy_gradient(const LossShape& shape, const double* probabilities,
                                              const std::uint8_t* labels, int mini_batch,
                                              Real* grad_logits) = 0;

  /// statistics [features] (overwritten) <- running averages mean and variance [features].
  virtual void read_running_averages(int num_features, const Real* mean, const Real* variance,
                                     NormStatistics statistics) = 0;
  /// mean, variance <- 0.9 of them + 0.1 of `statistics`, whose variance is made unbiased:
  /// count / (count - 1), count [num_batches]. For one row of statistics [num_batches, features]
  /// after another, in double, rounded once at the end.
  virtual void update_running_averages(int num_features, const std::vector<double>& counts,
                                       NormStatistics statistics, Real* mean, Real* variance) = 0;

  /// *result += how far values [size] are from `expected`.
  virtual void compare(std::size_t size, const Real* values, const Real* expected,
                       Comparison* result) = 0;
  /// *found <- code where it is 0 and a value is not finite; code > 0.
  virtual void find_non_finite(std::size_t size, const Real* values, int code, int* found) = 0;

  /// values [size], which may begin where `sums` do, <- the nearest to the sums;
  /// *last_out_of_range becomes at least 1 + the last entry whose sum is out of range.
  virtual void finish_sums(std::size_t size, const ExactSum* sums, Real* values,
                           std::int64_t* last_out_of_range) = 0;
  /// For each row j of each array, with its neighbours where there are such:
  ///   gradient_j += weight_decay theta_j
  ///                 + smoothness/h ((theta_j - theta_before) + (theta_j - theta_after))
  /// sums [num_rows] (overwritten), of the arrays one behind the other.
  virtual void regularize(const std::vector<RegularizedRows<Real>>& arrays, RowSum* sums) = 0;
  /// velocity <- momentum velocity + gradient_scale gradient;  values -= rate velocity;  [size]
  /// each
  virtual void sgd_step(std::size_t size, const SgdRates& rates, const Real* gradient,
                        Real* velocity, Real* values) = 0;
};

/// The oracle: plain loops, one thread, a screen long each. Defined for float and double.
template <typename Real>
std::unique_ptr<Backend<Real>> make_reference_backend();

/// The fast CPU backend: vectorised for the best instruction set this processor has, `num_threads`
/// threads.
std::unique_ptr<Backend<float>> make_cpu_backend(int num_threads);
/// Segment::recording_bytes() of its segments, known without one.
std::size_t cpu_recording_bytes(const SegmentShape& shape, int batch);

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
/// Those of them that this machine has.
std::vector<std::string> usable_backend_names();

/// Why "auto" takes no GPU on this machine.
struct NoGpu {
  std::string reason = {};    ///< one sentence; empty where it takes one
  bool worth_saying = false;  ///< kernels for GPUs are installed here, so that one may be expected
};
NoGpu why_no_gpu();
/// From now on "auto" takes no GPU, for this reason.
void take_no_gpu(const std::string& reason);

/// The backend of that name ("auto": the best that this machine has; of several GPUs the one that
/// the launcher's number of this process on its host falls to). Throws an input error for an
/// unknown name, or one that is known but cannot be had here, saying why.
std::unique_ptr<Backend<float>> make_backend(std::string_view name, int num_threads);

}  // namespace revode
