// A backend whose memory lies apart, for callers whose arrays lie in the host's: every call takes
// its arrays there and brings them back. So tests that hand in vectors run with any backend.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/core/buffer.hpp"

namespace revode {

/// The arrays of one call: taken over when they are named, brought back at the end.
class StagedCall {
 public:
  explicit StagedCall(CallQueue& queue) : queue_(queue) {}
  StagedCall(const StagedCall&) = delete;
  StagedCall& operator=(const StagedCall&) = delete;
  ~StagedCall() {
    for (const auto& bring_back : at_end_) bring_back();
    queue_.wait(queue_.mark());
  }

  template <typename T>
  const T* in(const T* host, std::size_t size) {
    return place(host, size);
  }
  /// Null stays null.
  template <typename T>
  T* in_out(T* host, std::size_t size) {
    T* const placed = place(host, size);
    if (placed != nullptr)
      at_end_.push_back([=, this] { queue_.copy_out(host, placed, size * sizeof(T)); });
    return placed;
  }
  StateView<float> in_out(const StateView<float>& state, std::size_t image_size) {
    const std::size_t size = state.batch * image_size;
    return {{in_out(state.slot[0], size), in_out(state.slot[1], size)}, state.batch};
  }
  NormStatistics in_out(const NormStatistics& statistics, std::size_t size) {
    return {in_out(statistics.mean, size), in_out(statistics.variance, size)};
  }
  OverflowNote in_out(const OverflowNote& overflow) {
    return {in_out(overflow.highest, 1), overflow.first};
  }

 private:
  template <typename T>
  T* place(const T* host, std::size_t size) {
    if (host == nullptr || size == 0) return nullptr;
    arrays_.emplace_back(size * sizeof(T), Memory::workspace, queue_.space());
    queue_.copy_in(arrays_.back().data(), host, size * sizeof(T));
    return reinterpret_cast<T*>(arrays_.back().data());
  }

  CallQueue& queue_;
  std::vector<Buffer<std::byte>> arrays_;
  std::vector<std::function<void()>> at_end_;
};

class StagedSegment final : public Segment<float> {
 public:
  StagedSegment(Backend<float>& backend, const SegmentShape& shape)
      : backend_(backend), inner_(backend.make_segment(shape)) {}

  const SegmentShape& shape() const override { return inner_->shape(); }
  std::string description() const override { return inner_->description(); }
  void bind(const SegmentWeights<float>& weights) override { weights_ = weights; }
  void bind_gradient(const SegmentGradient& gradient) override { gradient_ = gradient; }
  void load_weights() override {
    StagedCall call(backend_);
    inner_->bind(
        {call.in(weights_.kernel, num_kernel_values()), call.in(weights_.bias, num_bias_values())});
    inner_->load_weights();
  }
  std::unique_ptr<Recording> make_recording(int batch) override {
    return inner_->make_recording(batch);
  }
  std::size_t recording_bytes(int batch) const override { return inner_->recording_bytes(batch); }
  void advance(CouplingRange range, StateView<float> state, StateNotes* notes,
               Recording* recording) override {
    StagedCall call(backend_);
    inner_->advance(range, call.in_out(state, shape().image_size()), call.in_out(notes, 1),
                    recording);
  }
  void retreat(CouplingRange range, StateView<float> state, StateView<float> adjoint,
               const Recording* recording, OverflowNote overflow) override {
    StagedCall call(backend_);
    inner_->bind_gradient({call.in_out(gradient_.kernel, num_kernel_values()),
                           call.in_out(gradient_.bias, num_bias_values())});
    inner_->retreat(range, call.in_out(state, shape().image_size()),
                    call.in_out(adjoint, shape().image_size()), recording, call.in_out(overflow));
  }
  int couplings_a_chunk() const override { return inner_->couplings_a_chunk(); }

 private:
  std::size_t num_kernel_values() const { return shape().num_couplings * shape().kernel_size(); }
  std::size_t num_bias_values() const {
    return std::size_t{1} * shape().num_couplings * shape().channels;
  }

  Backend<float>& backend_;
  std::unique_ptr<Segment<float>> inner_;
  SegmentWeights<float> weights_;
  SegmentGradient gradient_;
};

class StagedBackend final : public Backend<float> {
 public:
  explicit StagedBackend(std::unique_ptr<Backend<float>> inner) : inner_(std::move(inner)) {}

  MemorySpace& space() override { return host_memory(); }
  Mark mark() override { return 0; }
  bool reached(Mark) override { return true; }
  void wait(Mark) override {}
  void zero(void* to, std::size_t bytes) override { host_queue().zero(to, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override {
    host_queue().copy(to, from, bytes);
  }
  void copy_in(void* to, const void* host, std::size_t bytes) override { copy(to, host, bytes); }
  void copy_out(void* host, const void* from, std::size_t bytes) override {
    copy(host, from, bytes);
  }
  void digest(const std::vector<std::span<const std::byte>>& arrays,
              std::uint64_t* digests) override {
    StagedCall call(*inner_);
    std::vector<std::span<const std::byte>> placed;
    for (const std::span<const std::byte> array : arrays)
      placed.emplace_back(call.in(array.data(), array.size()), array.size());
    inner_->digest(placed, call.in_out(digests, arrays.size()));
  }

  std::string_view name() const override { return inner_->name(); }
  bool multiplies_in(Precision precision) const override {
    return inner_->multiplies_in(precision);
  }
  std::string description() const override { return inner_->description(); }
  double measure_peak_flops(Precision precision) override {
    return inner_->measure_peak_flops(precision);
  }
  void set_progress(std::function<void()> progress) override {
    inner_->set_progress(std::move(progress));
  }
  std::unique_ptr<Segment<float>> make_segment(const SegmentShape& shape) override {
    return std::make_unique<StagedSegment>(*inner_, shape);
  }

  void cut_images(const StoredImages<float>& stored, const std::vector<DrawnImage>& drawn,
                  float* images) override {
    StagedCall call(*inner_);
    StoredImages<float> placed = stored;
    placed.pixels = call.in(stored.pixels, stored.num_images * stored.image_size());
    placed.mean = call.in(stored.mean, stored.channels);
    placed.deviation = call.in(stored.deviation, stored.channels);
    inner_->cut_images(placed, drawn, call.in_out(images, drawn.size() * stored.image_size()));
  }
  void opening_convolve(const OpeningShape& shape, const float* images,
                        const OpeningWeights<float>& weights, StateView<float> state,
                        NormStatistics statistics) override {
    StagedCall call(*inner_);
    inner_->opening_convolve(shape, take_images(call, shape, images), take(call, shape, weights),
                             call.in_out(state, image_size(shape)),
                             call.in_out(statistics, features(shape)));
  }
  void opening_normalise(const OpeningShape& shape, const OpeningWeights<float>& weights,
                         NormStatistics statistics, StateView<float> state) override {
    StagedCall call(*inner_);
    inner_->opening_normalise(shape, take(call, shape, weights),
                              call.in_out(statistics, features(shape)),
                              call.in_out(state, image_size(shape)));
  }
  void opening_backward(const OpeningShape& shape, const float* images,
                        const OpeningWeights<float>& weights, NormStatistics statistics,
                        StateView<float> state, StateView<float> adjoint,
                        const OpeningGradient& gradient, OverflowNote overflow) override {
    StagedCall call(*inner_);
    inner_->opening_backward(shape, take_images(call, shape, images), take(call, shape, weights),
                             call.in_out(statistics, features(shape)),
                             call.in_out(state, image_size(shape)),
                             call.in_out(adjoint, image_size(shape)),
                             {call.in_out(gradient.kernel, kernel_size(shape)),
                              call.in_out(gradient.scale, features(shape)),
                              call.in_out(gradient.shift, features(shape))},
                             call.in_out(overflow));
  }

  void transition_forward(const TransitionShape& shape, StateView<float> in,
                          StateView<float> out) override {
    StagedCall call(*inner_);
    inner_->transition_forward(shape, call.in_out(in, in_size(shape)),
                               call.in_out(out, out_size(shape)));
  }
  void transition_backward(const TransitionShape& shape, StateView<float> adjoint_out,
                           StateView<float> adjoint_in) override {
    StagedCall call(*inner_);
    inner_->transition_backward(shape, call.in_out(adjoint_out, out_size(shape)),
                                call.in_out(adjoint_in, in_size(shape)));
  }

  void closing_statistics(const ClosingShape& shape, StateView<float> state,
                          NormStatistics statistics) override {
    StagedCall call(*inner_);
    inner_->closing_statistics(shape, call.in_out(state, image_size(shape)),
                               call.in_out(statistics, features(shape)));
  }
  void closing_forward(const ClosingShape& shape, StateView<float> state,
                       const ClosingWeights<float>& weights, NormStatistics statistics,
                       float* logits) override {
    StagedCall call(*inner_);
    inner_->closing_forward(shape, call.in_out(state, image_size(shape)),
                            take(call, shape, weights), call.in_out(statistics, features(shape)),
                            call.in_out(logits, num_logits(shape)));
  }
  void closing_backward(const ClosingShape& shape, StateView<float> state,
                        const ClosingWeights<float>& weights, NormStatistics statistics,
                        const float* grad_logits, StateView<float> adjoint,
                        const ClosingGradient& gradient, OverflowNote overflow) override {
    StagedCall call(*inner_);
    inner_->closing_backward(
        shape, call.in_out(state, image_size(shape)), take(call, shape, weights),
        call.in_out(statistics, features(shape)), call.in(grad_logits, num_logits(shape)),
        call.in_out(adjoint, image_size(shape)),
        {call.in_out(gradient.scale, features(shape)), call.in_out(gradient.shift, features(shape)),
         call.in_out(gradient.weight, features(shape) * shape.num_classes),
         call.in_out(gradient.bias, shape.num_classes)},
        call.in_out(overflow));
  }

  void softmax_cross_entropy(const LossShape& shape, const float* logits,
                             const std::uint8_t* labels, double* probabilities,
                             LossSums* sums) override {
    StagedCall call(*inner_);
    inner_->softmax_cross_entropy(
        shape, call.in(logits, num_logits(shape)), call.in(labels, shape.batch),
        call.in_out(probabilities, num_logits(shape)), call.in_out(sums, 1));
  }
  void softmax_cross_entropy_gradient(const LossShape& shape, const double* probabilities,
                                      const std::uint8_t* labels, int mini_batch,
                                      float* grad_logits) override {
    StagedCall call(*inner_);
    inner_->softmax_cross_entropy_gradient(shape, call.in(probabilities, num_logits(shape)),
                                           call.in(labels, shape.batch), mini_batch,
                                           call.in_out(grad_logits, num_logits(shape)));
  }
  void read_running_averages(int num_features, const float* mean, const float* variance,
                             NormStatistics statistics) override {
    StagedCall call(*inner_);
    inner_->read_running_averages(num_features, call.in(mean, num_features),
                                  call.in(variance, num_features),
                                  call.in_out(statistics, num_features));
  }
  void update_running_averages(int num_features, const std::vector<double>& counts,
                               NormStatistics statistics, float* mean, float* variance) override {
    StagedCall call(*inner_);
    inner_->update_running_averages(
        num_features, counts, call.in_out(statistics, counts.size() * num_features),
        call.in_out(mean, num_features), call.in_out(variance, num_features));
  }
  void compare(std::size_t size, const float* values, const float* expected,
               Comparison* result) override {
    StagedCall call(*inner_);
    inner_->compare(size, call.in(values, size), call.in(expected, size), call.in_out(result, 1));
  }
  void find_non_finite(std::size_t size, const float* values, int code, int* found) override {
    StagedCall call(*inner_);
    inner_->find_non_finite(size, call.in(values, size), code, call.in_out(found, 1));
  }
  /// In place, as gradients are finished: the values begin where the sums do.
  void finish_sums(std::size_t size, const ExactSum* sums, float* values,
                   std::int64_t* last_out_of_range) override {
    Buffer<ExactSum> both(size, Memory::workspace, inner_->space());
    inner_->copy_in(both.data(), sums, both.bytes());
    auto* const finished = reinterpret_cast<float*>(both.data());
    StagedCall call(*inner_);
    inner_->finish_sums(size, both.data(), finished, call.in_out(last_out_of_range, 1));
    inner_->copy_out(values, finished, size * sizeof(float));
  }
  void regularize(const std::vector<RegularizedRows<float>>& arrays, RowSum* sums) override {
    StagedCall call(*inner_);
    std::vector<RegularizedRows<float>> all_placed;
    std::int64_t num_rows = 0;
    for (const RegularizedRows<float>& rows : arrays) {
      const std::size_t size = rows.num_rows * rows.row_size;
      const std::size_t block = rows.rows_per_block * rows.row_size;
      RegularizedRows<float>& placed = all_placed.emplace_back(rows);
      placed.values = call.in(rows.values, size);
      placed.before = call.in(rows.before, block);
      placed.after = call.in(rows.after, block);
      placed.gradient = call.in_out(rows.gradient, size);
      num_rows += rows.num_rows;
    }
    inner_->regularize(all_placed, call.in_out(sums, num_rows));
  }
  void sgd_step(std::size_t size, const SgdRates& rates, const float* gradient, float* velocity,
                float* values) override {
    StagedCall call(*inner_);
    inner_->sgd_step(size, rates, call.in(gradient, size), call.in_out(velocity, size),
                     call.in_out(values, size));
  }

 private:
  template <typename Shape>
  static std::size_t image_size(const Shape& shape) {
    return std::size_t{1} * shape.channels * shape.height * shape.width;
  }
  template <typename Shape>
  static std::size_t features(const Shape& shape) {
    return shape.features.num_features(shape.channels);
  }
  template <typename Shape>
  static std::size_t num_logits(const Shape& shape) {
    return std::size_t{1} * shape.batch * shape.num_classes;
  }
  static std::size_t kernel_size(const OpeningShape& shape) {
    return 9 * features(shape) * shape.in_channels;
  }
  static std::size_t in_size(const TransitionShape& shape) {
    return std::size_t{1} * shape.in_channels * shape.height * shape.width;
  }
  static std::size_t out_size(const TransitionShape& shape) {
    return std::size_t{1} * shape.out_channels * (shape.height / 2) * (shape.width / 2);
  }
  static const float* take_images(StagedCall& call, const OpeningShape& shape,
                                  const float* images) {
    return call.in(images,
                   std::size_t{1} * shape.batch * shape.in_channels * shape.height * shape.width);
  }
  static OpeningWeights<float> take(StagedCall& call, const OpeningShape& shape,
                                    const OpeningWeights<float>& weights) {
    return {call.in(weights.kernel, kernel_size(shape)), call.in(weights.scale, features(shape)),
            call.in(weights.shift, features(shape))};
  }
  static ClosingWeights<float> take(StagedCall& call, const ClosingShape& shape,
                                    const ClosingWeights<float>& weights) {
    return {call.in(weights.scale, features(shape)), call.in(weights.shift, features(shape)),
            call.in(weights.weight, features(shape) * shape.num_classes),
            call.in(weights.bias, shape.num_classes)};
  }

  std::unique_ptr<Backend<float>> inner_;
};

}  // namespace revode
