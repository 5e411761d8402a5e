#include "backend/cuda/cuda_backend.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "revode/core/error.hpp"

#include "backend/check_shape.hpp"
#include "backend/cuda/cuda_segment.hpp"
#include "backend/cuda/engine.hpp"
#include "backend/cuda/whole_segment.hpp"

namespace revode::cuda {
namespace {

template <typename Shape>
std::size_t plane_size(const Shape& shape) {
  return static_cast<std::size_t>(shape.height) * shape.width;
}

template <typename Shape>
int features(const Shape& shape) {
  return shape.features.num_features(shape.channels);
}

template <typename Shape>
FeaturePlanes planes_of(const Shape& shape, const StateView<float>& state) {
  // Kernels count the values of a feature, and in steps, in 32 bits.
  REVODE_CHECK(shape.batch * plane_size(shape) < std::size_t{1} << 30,
               "{} images of {} x {} are more than the kernels count", shape.batch, shape.height,
               shape.width);
  return {.batch = shape.batch,
          .channels = shape.channels,
          .plane_size = static_cast<int>(plane_size(shape)),
          .features = shape.features,
          .slot = {state.slot[0], state.slot[1]}};
}

class CudaBackend final : public Backend<float> {
 public:
  explicit CudaBackend(std::unique_ptr<Device> device)
      : engine_(std::make_shared<Engine>(std::move(device))) {}

  MemorySpace& space() override { return engine_->space(); }
  MemorySpace& staging() override { return engine_->staging(); }
  MemorySpace* lendable() override { return &engine_->lendable(); }
  Mark mark() override { return engine_->mark(); }
  bool reached(Mark mark) override { return engine_->reached(mark); }
  void wait(Mark mark) override { engine_->wait(mark); }
  Stamp stamp() override { return engine_->stamp(); }
  double seconds_between(Stamp begin, Stamp end) override {
    return engine_->seconds_between(begin, end);
  }
  bool is_beside_host() const override { return true; }
  std::vector<HostTime> host_times(std::span<const Stamp> stamps) override {
    return engine_->host_times(stamps);
  }
  void stamp_copies() override { engine_->stamp_copies(); }
  std::vector<StampedCopy> take_copies() override { return engine_->take_copies(); }
  void zero(void* to, std::size_t bytes) override { engine_->zero(to, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override {
    engine_->copy(to, from, bytes);
  }
  void copy_in(void* to, const void* host, std::size_t bytes) override {
    engine_->copy_in(to, host, bytes);
  }
  void copy_out(void* host, const void* from, std::size_t bytes) override {
    engine_->copy_out(host, from, bytes);
  }
  void digest(const std::vector<std::span<const std::byte>>& arrays,
              std::uint64_t* digests) override {
    zero(digests, arrays.size() * sizeof(*digests));
    constexpr std::size_t most = AddDigests::most_arrays;
    for (std::size_t first = 0; first < arrays.size(); first += most)
      engine_->launch(
          AddDigests(std::span(arrays).subspan(first, std::min(most, arrays.size() - first)),
                     digests + first));
  }

  void lend(void* memory, std::size_t bytes) override { engine_->device().lend(memory, bytes); }
  void take_back(void* memory, std::size_t bytes) noexcept override {
    engine_->device().take_back(memory, bytes);
  }

  std::string_view name() const override { return "cuda"; }
  bool multiplies_in(Precision) const override { return true; }
  std::string description() const override { return engine_->device().description(); }
  int num_devices() const override { return engine_->device().num_devices(); }
  std::optional<WorkCounts> work_counts() const override { return engine_->counts(); }
  double measure_peak_flops(Precision precision) override {
    return engine_->device().peak_flops(precision);
  }
  void set_progress(std::function<void()> progress) override {
    engine_->set_progress(std::move(progress));
  }

  std::unique_ptr<Segment<float>> make_segment(const SegmentShape& shape) override {
    check_shape(shape);
    if (auto whole = make_whole_segment(shape, engine_)) return whole;
    return std::make_unique<CudaSegment>(shape, engine_);
  }

  void cut_images(const StoredImages<float>& stored, const std::vector<DrawnImage>& drawn,
                  float* images) override {
    auto& sent = draws_.send(drawn, *this);
    engine_->launch(CutImages{.stored = stored,
                              .num_drawn = static_cast<int>(drawn.size()),
                              .drawn = sent.data(),
                              .images = images});
    draws_.release(sent, *this);
  }

  void opening_convolve(const OpeningShape& shape, const float* images,
                        const OpeningWeights<float>& weights, StateView<float> state,
                        NormStatistics statistics) override {
    const FeaturePlanes planes = planes_of(shape, state);
    for (int first = 0; first < shape.in_channels; first += OpeningConvolution::most_channels)
      engine_->launch(OpeningConvolution{.shape = images_of(shape),
                                         .images = images,
                                         .kernel = weights.kernel,
                                         .first_channel = first,
                                         .planes = planes});
    if (statistics.mean != nullptr) compute_statistics(planes, statistics);
  }

  void opening_normalise(const OpeningShape& shape, const OpeningWeights<float>& weights,
                         NormStatistics statistics, StateView<float> state) override {
    engine_->launch(NormaliseFeatures{planes_of(shape, state),
                                      {statistics, weights.scale, weights.shift},
                                      grid_unit(shape.grid_bits)});
    if (!shape.features.joined)
      zero(state.slot[1 - shape.features.slot],
           shape.batch * shape.channels * plane_size(shape) * sizeof(float));
  }

  void opening_backward(const OpeningShape& shape, const float* images,
                        const OpeningWeights<float>& weights, NormStatistics statistics,
                        StateView<float> state, StateView<float> adjoint,
                        const OpeningGradient& gradient, OverflowNote overflow) override {
    opening_convolve(shape, images, weights, state, NormStatistics{});
    const FeaturePlanes x = planes_of(shape, state);
    const FeatureAdjoint dy{planes_of(shape, adjoint)};
    const NormParameters norm{statistics, weights.scale, weights.shift};
    const float* const means =
        sum_norm_backward(x, dy, norm, gradient.scale, gradient.shift, overflow);
    SumOpeningGradient sum{.shape = images_of(shape),
                           .images = images,
                           .x = x,
                           .adjoint = dy,
                           .norm = norm,
                           .means = means};
    sum.parts = engine_->scratch<double>(Scratch::kernel_gradient,
                                         SumOpeningGradient::num_parts * sum.kernel_size());
    engine_->launch(sum);
    engine_->launch(AddOpeningGradient{.kernel_size = sum.kernel_size(),
                                       .parts = sum.parts,
                                       .sums = gradient.kernel,
                                       .overflow = overflow.highest,
                                       .overflow_code = overflow.first});
  }

  void transition_forward(const TransitionShape& shape, StateView<float> in,
                          StateView<float> out) override {
    engine_->launch(PoolSlots{Transition(shape),
                              grid_unit(shape.grid_bits),
                              {in.slot[0], in.slot[1]},
                              {out.slot[0], out.slot[1]}});
  }

  void transition_backward(const TransitionShape& shape, StateView<float> adjoint_out,
                           StateView<float> adjoint_in) override {
    engine_->launch(UnpoolSlots{Transition(shape),
                                {adjoint_out.slot[0], adjoint_out.slot[1]},
                                {adjoint_in.slot[0], adjoint_in.slot[1]}});
  }

  void closing_statistics(const ClosingShape& shape, StateView<float> state,
                          NormStatistics statistics) override {
    compute_statistics(planes_of(shape, state), statistics);
  }

  void closing_forward(const ClosingShape& shape, StateView<float> state,
                       const ClosingWeights<float>& weights, NormStatistics statistics,
                       float* logits) override {
    // logits = W pooled + b
    engine_->launch(FillRows{.num_rows = shape.batch,
                             .row_size = shape.num_classes,
                             .row = weights.bias,
                             .rows = logits});
    engine_->multiply(Product{.rows = shape.batch,
                              .columns = shape.num_classes,
                              .inner = features(shape),
                              .a = pool_features(shape, state, weights, statistics),
                              .b = weights.weight,
                              .b_is_transposed = true,
                              .c = logits,
                              .adds = true});
  }

  void closing_backward(const ClosingShape& shape, StateView<float> state,
                        const ClosingWeights<float>& weights, NormStatistics statistics,
                        const float* grad_logits, StateView<float> adjoint,
                        const ClosingGradient& gradient, OverflowNote overflow) override {
    const int num_features = features(shape);
    // logits = W pooled + b, pooled = mean over the plane
    float* const grad_weight = engine_->scratch(Scratch::kernel_gradient,
                                                std::size_t{1} * shape.num_classes * num_features);
    engine_->multiply(Product{.rows = shape.num_classes,
                              .columns = num_features,
                              .inner = shape.batch,
                              .a = grad_logits,
                              .a_is_transposed = true,
                              .b = pool_features(shape, state, weights, statistics),
                              .c = grad_weight});
    engine_->launch(
        AddContributions{.num_values = std::int64_t{1} * shape.num_classes * num_features,
                         .values = grad_weight,
                         .sums = gradient.weight,
                         .overflow = overflow.highest,
                         .overflow_code = overflow.first});
    engine_->launch(AddColumnSums{.num_rows = shape.batch,
                                  .columns = shape.num_classes,
                                  .values = grad_logits,
                                  .sums = gradient.bias,
                                  .overflow = overflow.highest,
                                  .overflow_code = overflow.first});
    float* const grad_pooled =
        engine_->scratch(Scratch::grad_hidden, std::size_t{1} * shape.batch * num_features);
    engine_->multiply(Product{.rows = shape.batch,
                              .columns = num_features,
                              .inner = shape.num_classes,
                              .a = grad_logits,
                              .b = weights.weight,
                              .c = grad_pooled,
                              .factor = 1 / static_cast<float>(plane_size(shape))});
    if (!shape.features.joined)
      zero(adjoint.slot[1 - shape.features.slot],
           shape.batch * shape.channels * plane_size(shape) * sizeof(float));
    const FeaturePlanes x = planes_of(shape, state), grad = planes_of(shape, adjoint);
    const FeatureAdjoint dy{grad, grad_pooled};
    const NormParameters norm{statistics, weights.scale, weights.shift};
    const float* const means =
        sum_norm_backward(x, dy, norm, gradient.scale, gradient.shift, overflow);
    engine_->launch(NormBackward{x, dy, norm, means, grad});
  }

  void softmax_cross_entropy(const LossShape& shape, const float* logits,
                             const std::uint8_t* labels, double* probabilities,
                             LossSums* sums) override {
    auto* const losses = engine_->scratch<double>(Scratch::sums, shape.batch);
    auto* const hits = engine_->scratch<std::int32_t>(Scratch::hidden, shape.batch);
    engine_->launch(SoftmaxOfSamples{shape, logits, labels, probabilities, losses, hits});
    engine_->launch(SumLosses{shape.batch, losses, hits, sums});
  }

  void softmax_cross_entropy_gradient(const LossShape& shape, const double* probabilities,
                                      const std::uint8_t* labels, int mini_batch,
                                      float* grad_logits) override {
    engine_->launch(SoftmaxGradient{shape, mini_batch, probabilities, labels, grad_logits});
  }

  void read_running_averages(int num_features, const float* mean, const float* variance,
                             NormStatistics statistics) override {
    engine_->launch(ReadRunningAverages{num_features, mean, variance, statistics});
  }

  void update_running_averages(int num_features, const std::vector<double>& counts,
                               NormStatistics statistics, float* mean, float* variance) override {
    auto* const averages = engine_->scratch<double>(Scratch::sums, 2 * num_features);
    constexpr std::size_t most = UpdateRunningAverages::most_batches;
    for (std::size_t first = 0; first < counts.size(); first += most)
      engine_->launch(
          UpdateRunningAverages(num_features, counts, first, statistics, averages, mean, variance));
  }

  void compare(std::size_t size, const float* values, const float* expected,
               Comparison* result) override {
    auto* const partial = engine_->scratch<Comparison>(Scratch::sums, CompareParts::num_parts);
    engine_->launch(CompareParts{static_cast<std::int64_t>(size), values, expected, partial});
    engine_->launch(AddComparisons{partial, result});
  }

  void find_non_finite(std::size_t size, const float* values, int code, int* found) override {
    int* const any = engine_->scratch<int>(Scratch::sums, 1);
    zero(any, sizeof(int));
    engine_->launch(FindNonFinite{static_cast<std::int64_t>(size), values, any});
    engine_->launch(NoteFound{code, any, found});
  }

  // Part by part, front to back: value i lies in front of sum i, so none is overwritten unread.
  void finish_sums(std::size_t size, const ExactSum* sums, float* values,
                   std::int64_t* last_out_of_range) override {
    constexpr std::size_t part_size = std::size_t{1} << 20;
    float* const part = engine_->scratch(Scratch::hidden, std::min(size, part_size));
    for (std::size_t first = 0; first < size; first += part_size) {
      const std::size_t count = std::min(part_size, size - first);
      engine_->launch(FinishSums{.num_values = static_cast<std::int64_t>(count),
                                 .first = static_cast<std::int64_t>(first),
                                 .sums = sums + first,
                                 .values = part,
                                 .last_out_of_range = last_out_of_range});
      copy(values + first, part, count * sizeof(float));
    }
  }

  void regularize(const std::vector<RegularizedRows<float>>& arrays, RowSum* sums) override {
    constexpr std::size_t most = RegularizeRows::most_arrays;
    for (std::size_t first = 0; first < arrays.size(); first += most) {
      const RegularizeRows some(arrays, first, sums);
      engine_->launch(some);
      sums += some.num_blocks();
    }
  }

  void sgd_step(std::size_t size, const SgdRates& rates, const float* gradient, float* velocity,
                float* values) override {
    engine_->launch(SgdStep{.num_values = static_cast<std::int64_t>(size),
                            .rate = static_cast<float>(rates.rate),
                            .momentum = static_cast<float>(rates.momentum),
                            .gradient_scale = static_cast<float>(rates.gradient_scale),
                            .gradient = gradient,
                            .velocity = velocity,
                            .values = values});
  }

 private:
  static ImageShape images_of(const OpeningShape& shape) {
    return {shape.batch, shape.in_channels, shape.height, shape.width};
  }

  TwoSums* part_sums(const FeaturePlanes& planes) {
    return engine_->scratch<TwoSums>(Scratch::sums, FeatureParts(planes).num_blocks());
  }

  void compute_statistics(const FeaturePlanes& planes, NormStatistics statistics) {
    TwoSums* const parts = part_sums(planes);
    engine_->launch(SumStatistics{planes, parts});
    engine_->launch(FinishStatistics{planes, parts, statistics});
  }

  /// The gradients of scale and shift; and the means [features, 2] that dL/dx is made of.
  const float* sum_norm_backward(const FeaturePlanes& x, const FeatureAdjoint& adjoint,
                                 const NormParameters& norm, ExactSum* grad_scale,
                                 ExactSum* grad_shift, OverflowNote overflow) {
    TwoSums* const parts = part_sums(x);
    float* const means = engine_->scratch(Scratch::hidden, 2 * x.num_features());
    engine_->launch(SumNormBackward{x, adjoint, norm, parts});
    engine_->launch(FinishNormBackward{.x = x,
                                       .parts = parts,
                                       .grad_scale = grad_scale,
                                       .grad_shift = grad_shift,
                                       .means = means,
                                       .overflow = overflow.highest,
                                       .overflow_code = overflow.first});
    return means;
  }

  /// [batch, features]: means over the plane of relu(norm(features)).
  const float* pool_features(const ClosingShape& shape, StateView<float> state,
                             const ClosingWeights<float>& weights, NormStatistics statistics) {
    float* const pooled =
        engine_->scratch(Scratch::hidden, std::size_t{1} * shape.batch * features(shape));
    engine_->launch(
        PoolFeatures{planes_of(shape, state), {statistics, weights.scale, weights.shift}, pooled});
    return pooled;
  }

  std::shared_ptr<Engine> engine_;
  SentArrays<DrawnImage> draws_;
};

}  // namespace

std::unique_ptr<Backend<float>> make_cuda_backend(std::unique_ptr<Device> device) {
  return std::make_unique<CudaBackend>(std::move(device));
}

}  // namespace revode::cuda
