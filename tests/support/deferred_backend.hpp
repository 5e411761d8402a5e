// A backend that is late and lets nobody look, for tests of what is above backends: a decorator of
// the reference backend. Its arrays lie in pages that the host can neither read nor write; nothing
// runs before a wait, and then nothing behind the mark that was waited for; what is fetched is
// poisoned until it is there. So a forgotten wait, or a pointer followed by the host, shows every
// time and on any machine.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "revode/backend/backend.hpp"

namespace revode {

/// Memory that is closed but while open() to close().
class ClosedMemory final : public MemorySpace {
 public:
  ClosedMemory()
      : base_(static_cast<std::byte*>(mmap(nullptr, capacity, PROT_NONE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (base_ == MAP_FAILED) throw std::bad_alloc();
  }
  ClosedMemory(const ClosedMemory&) = delete;
  ClosedMemory& operator=(const ClosedMemory&) = delete;
  ~ClosedMemory() override { munmap(base_, capacity); }

  std::string_view name() const override { return "closed"; }
  bool host_accessible() const override { return false; }
  void* allocate(std::size_t bytes) override {
    std::byte* const pointer = base_ + used_;
    used_ += (bytes + alignment) / alignment * alignment;
    if (used_ > capacity) throw std::bad_alloc();
    return pointer;
  }
  /// No address is given out twice: calls under way may still use it.
  void release(void*, std::size_t) noexcept override {}

  void open() { protect(PROT_READ | PROT_WRITE); }
  void close() { protect(PROT_NONE); }

 private:
  static constexpr std::size_t capacity = std::size_t{4} << 30, alignment = 64;

  void protect(int protection) {
    if (mprotect(base_, capacity, protection) != 0) throw std::runtime_error("mprotect failed");
  }

  std::byte* base_;
  std::size_t used_ = 0;
};

template <typename Real>
class DeferredBackend final : public Backend<Real> {
 public:
  explicit DeferredBackend(std::unique_ptr<Backend<Real>> inner = make_reference_backend<Real>())
      : inner_(std::move(inner)) {}

  MemorySpace& space() override { return memory_; }
  Mark mark() override { return num_made_; }
  /// Like a device that gets on while it is asked: to that mark, and no further.
  bool reached(Mark mark) override {
    if (mark > num_done_ && !running_) run_to(mark, {});
    return mark <= num_done_;
  }
  void wait(Mark mark) override {
    if (mark > num_done_) run_to(mark, progress_);
  }

  void zero(void* to, std::size_t bytes) override {
    defer([=, this] { inner_->zero(to, bytes); });
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    defer([=, this] { inner_->copy(to, from, bytes); });
  }
  void copy_in(void* to, const void* host, std::size_t bytes) override {
    defer([=, this] { inner_->copy(to, host, bytes); });
    calls_.back().host_source = {static_cast<const std::byte*>(host), bytes};
  }
  void copy_out(void* host, const void* from, std::size_t bytes) override {
    // What a call in front still reads there is left to it.
    if (bytes > 0 && !is_read({static_cast<const std::byte*>(host), bytes}))
      std::memset(host, 0xff, bytes);  // NaN, as a number
    defer([=, this] { inner_->copy(host, from, bytes); });
  }
  void digest(const std::vector<std::span<const std::byte>>& arrays,
              std::uint64_t* digests) override {
    defer([=, this] { inner_->digest(arrays, digests); });
  }

  std::string_view name() const override { return "deferred"; }
  std::string description() const override { return "deferred " + inner_->description(); }
  double measure_peak_flops(Precision precision) override {
    return inner_->measure_peak_flops(precision);
  }
  void set_progress(std::function<void()> progress) override { progress_ = std::move(progress); }
  std::unique_ptr<Segment<Real>> make_segment(const SegmentShape& shape) override {
    return std::make_unique<DeferredSegment>(*this, inner_->make_segment(shape));
  }

  void cut_images(const StoredImages<Real>& stored, const std::vector<DrawnImage>& drawn,
                  Real* images) override {
    defer([=, this] { inner_->cut_images(stored, drawn, images); });
  }
  void opening_convolve(const OpeningShape& shape, const Real* images,
                        const OpeningWeights<Real>& weights, StateView<Real> state,
                        NormStatistics statistics) override {
    defer([=, this] { inner_->opening_convolve(shape, images, weights, state, statistics); });
  }
  void opening_normalise(const OpeningShape& shape, const OpeningWeights<Real>& weights,
                         NormStatistics statistics, StateView<Real> state) override {
    defer([=, this] { inner_->opening_normalise(shape, weights, statistics, state); });
  }
  void opening_backward(const OpeningShape& shape, const Real* images,
                        const OpeningWeights<Real>& weights, NormStatistics statistics,
                        StateView<Real> state, StateView<Real> adjoint,
                        const OpeningGradient& gradient, OverflowNote overflow) override {
    defer([=, this] {
      inner_->opening_backward(shape, images, weights, statistics, state, adjoint, gradient,
                               overflow);
    });
  }
  void transition_forward(const TransitionShape& shape, StateView<Real> in,
                          StateView<Real> out) override {
    defer([=, this] { inner_->transition_forward(shape, in, out); });
  }
  void transition_backward(const TransitionShape& shape, StateView<Real> adjoint_out,
                           StateView<Real> adjoint_in) override {
    defer([=, this] { inner_->transition_backward(shape, adjoint_out, adjoint_in); });
  }
  void closing_statistics(const ClosingShape& shape, StateView<Real> state,
                          NormStatistics statistics) override {
    defer([=, this] { inner_->closing_statistics(shape, state, statistics); });
  }
  void closing_forward(const ClosingShape& shape, StateView<Real> state,
                       const ClosingWeights<Real>& weights, NormStatistics statistics,
                       Real* logits) override {
    defer([=, this] { inner_->closing_forward(shape, state, weights, statistics, logits); });
  }
  void closing_backward(const ClosingShape& shape, StateView<Real> state,
                        const ClosingWeights<Real>& weights, NormStatistics statistics,
                        const Real* grad_logits, StateView<Real> adjoint,
                        const ClosingGradient& gradient, OverflowNote overflow) override {
    defer([=, this] {
      inner_->closing_backward(shape, state, weights, statistics, grad_logits, adjoint, gradient,
                               overflow);
    });
  }
  void softmax_cross_entropy(const LossShape& shape, const Real* logits, const std::uint8_t* labels,
                             double* probabilities, LossSums* sums) override {
    defer([=, this] { inner_->softmax_cross_entropy(shape, logits, labels, probabilities, sums); });
  }
  void softmax_cross_entropy_gradient(const LossShape& shape, const double* probabilities,
                                      const std::uint8_t* labels, int mini_batch,
                                      Real* grad_logits) override {
    defer([=, this] {
      inner_->softmax_cross_entropy_gradient(shape, probabilities, labels, mini_batch, grad_logits);
    });
  }
  void read_running_averages(int num_features, const Real* mean, const Real* variance,
                             NormStatistics statistics) override {
    defer([=, this] { inner_->read_running_averages(num_features, mean, variance, statistics); });
  }
  void update_running_averages(int num_features, const std::vector<double>& counts,
                               NormStatistics statistics, Real* mean, Real* variance) override {
    defer([=, this] {
      inner_->update_running_averages(num_features, counts, statistics, mean, variance);
    });
  }
  void compare(std::size_t size, const Real* values, const Real* expected,
               Comparison* result) override {
    defer([=, this] { inner_->compare(size, values, expected, result); });
  }
  void find_non_finite(std::size_t size, const Real* values, int code, int* found) override {
    defer([=, this] { inner_->find_non_finite(size, values, code, found); });
  }
  void finish_sums(std::size_t size, const ExactSum* sums, Real* values,
                   std::int64_t* last_out_of_range) override {
    defer([=, this] { inner_->finish_sums(size, sums, values, last_out_of_range); });
  }
  void regularize(const std::vector<RegularizedRows<Real>>& arrays, RowSum* sums) override {
    defer([=, this] { inner_->regularize(arrays, sums); });
  }
  void sgd_step(std::size_t size, const SgdRates& rates, const Real* gradient, Real* velocity,
                Real* values) override {
    defer([=, this] { inner_->sgd_step(size, rates, gradient, velocity, values); });
  }

 private:
  struct DeferredRecording final : Recording {
    std::shared_ptr<Recording> inner;
  };

  class DeferredSegment final : public Segment<Real> {
   public:
    DeferredSegment(DeferredBackend& backend, std::unique_ptr<Segment<Real>> inner)
        : backend_(backend), inner_(std::move(inner)) {}
    const SegmentShape& shape() const override { return inner_->shape(); }
    std::string description() const override { return inner_->description(); }
    void bind(const SegmentWeights<Real>& weights) override { inner_->bind(weights); }
    void bind_gradient(const SegmentGradient& gradient) override {
      inner_->bind_gradient(gradient);
    }
    void load_weights() override {
      backend_.defer([inner = inner_] { inner->load_weights(); });
    }
    std::unique_ptr<Recording> make_recording(int batch) override {
      auto recording = std::make_unique<DeferredRecording>();
      recording->inner = inner_->make_recording(batch);
      return recording;
    }
    std::size_t recording_bytes(int batch) const override { return inner_->recording_bytes(batch); }
    void advance(CouplingRange range, StateView<Real> state, StateNotes* notes,
                 Recording* recording) override {
      backend_.defer([=, inner = inner_, recorded = inner_of(recording)] {
        inner->advance(range, state, notes, recorded.get());
      });
    }
    void retreat(CouplingRange range, StateView<Real> state, StateView<Real> adjoint,
                 const Recording* recording, OverflowNote overflow) override {
      backend_.defer([=, inner = inner_, recorded = inner_of(recording)] {
        inner->retreat(range, state, adjoint, recorded.get(), overflow);
      });
    }
    int couplings_a_chunk() const override { return inner_->couplings_a_chunk(); }

   private:
    static std::shared_ptr<Recording> inner_of(const Recording* recording) {
      return recording != nullptr ? static_cast<const DeferredRecording*>(recording)->inner
                                  : nullptr;
    }

    DeferredBackend& backend_;
    std::shared_ptr<Segment<Real>> inner_;
  };

  struct Call {
    std::function<void()> run;
    std::span<const std::byte> host_source{};  // copy_in() reads it
  };

  void defer(std::function<void()> run) {
    calls_.push_back({std::move(run)});
    ++num_made_;
  }

  /// By a call that is still to run.
  bool is_read(std::span<const std::byte> host) const {
    return std::ranges::any_of(calls_, [&](const Call& call) {
      const auto source = call.host_source;
      return source.data() < host.data() + host.size() &&
             host.data() < source.data() + source.size();
    });
  }

  void run_to(Mark mark, const std::function<void()>& progress) {
    if (running_) throw std::logic_error("a call of the backend waits for the backend");
    if (mark > num_made_) throw std::logic_error("a mark of calls that were not made");
    running_ = true;
    while (num_done_ < mark) {
      memory_.open();
      calls_.front().run();
      memory_.close();
      calls_.pop_front();
      ++num_done_;
      if (progress) progress();
    }
    running_ = false;
  }

  std::unique_ptr<Backend<Real>> inner_;
  ClosedMemory memory_;
  std::deque<Call> calls_;  // made and not yet run
  Mark num_made_ = 0, num_done_ = 0;
  bool running_ = false;
  std::function<void()> progress_;
};

}  // namespace revode
