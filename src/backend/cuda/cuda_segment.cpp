#include "backend/cuda/cuda_segment.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "revode/core/error.hpp"

#include "backend/check_shape.hpp"

namespace revode::cuda {
namespace {

/// Each call takes the states into the layout of the convolutions and back, which is worth so many
/// couplings.
constexpr int worthwhile_chunk = 8;

/// Arrays in a row begin at multiples of so many floats: the library may compute in another way
/// where they do not, and so give other bits.
constexpr std::size_t aligned_floats = 16;
std::size_t aligned(std::size_t size) {
  return (size + aligned_floats - 1) / aligned_floats * aligned_floats;
}

/// Of one micro-batch, entries of [batch, height, width, channels]: in entry j + 1 the input of
/// coupling j, which is the target of the one before; in entry 0 the target of coupling 0 before it
/// changes. And hidden [num_couplings].
struct CudaRecording final : Recording {
  CudaRecording(const SegmentShape& shape, int batch_in, MemorySpace& space)
      : batch(batch_in),
        entry_size(aligned(batch_in * shape.image_size())),
        state((std::size_t{1} + shape.num_couplings) * entry_size, Memory::stash, space),
        hidden(shape.num_couplings * entry_size, Memory::stash, space) {}

  int batch;
  std::size_t entry_size;
  Buffer<float> state, hidden;
};

}  // namespace

CudaSegment::CudaSegment(const SegmentShape& shape, std::shared_ptr<Engine> engine)
    : shape_(shape), engine_(std::move(engine)) {
  check_shape(shape);
  const std::size_t couplings = shape.num_couplings;
  MemorySpace& space = engine_->space();
  kernel_stride_ = aligned(shape.kernel_size());
  kernel_ = Buffer<float>(couplings * kernel_stride_, Memory::packed_weights, space);
  if (shape.force == Force::symmetric)
    adjoint_kernel_ = Buffer<float>(kernel_.size(), Memory::packed_weights, space);
  bias_ = Buffer<float>(couplings * shape.channels, Memory::packed_weights, space);
}

int CudaSegment::couplings_a_chunk() const { return worthwhile_chunk; }

CouplingLine CudaSegment::line(int target_slot) const {
  return {.gamma = static_cast<float>(shape_.gamma),
          .beta = static_cast<float>(shape_.beta),
          .scale = static_cast<float>(shape_.scale[target_slot]),
          .unit = grid_unit(shape_.grid_bits),
          .limit = std::ldexp(1.0f, 24 - shape_.grid_bits)};
}

ImageShape CudaSegment::images(int batch) const {
  return {batch, shape_.channels, shape_.height, shape_.width};
}

void CudaSegment::load_weights() {
  if (shape_.num_couplings == 0) return;
  engine_->launch(PackKernels{.num_couplings = shape_.num_couplings,
                              .channels = shape_.channels,
                              .stride = static_cast<std::int64_t>(kernel_stride_),
                              .kernel = weights_.kernel,
                              .forward = kernel_.data(),
                              .adjoint = adjoint_kernel_.data()});
  engine_->copy(bias_.data(), weights_.bias, bias_.bytes());
}

std::unique_ptr<Recording> CudaSegment::make_recording(int batch) {
  return std::make_unique<CudaRecording>(shape_, batch, engine_->space());
}

/// y <- kernel_j * x
void CudaSegment::convolve(const Buffer<float>& kernels, int coupling, int batch, const float* x,
                           float* y) {
  engine_->convolve(Convolution{.batch = batch,
                                .height = shape_.height,
                                .width = shape_.width,
                                .in_channels = shape_.channels,
                                .out_channels = shape_.channels,
                                .x = x,
                                .kernel = kernels.data() + coupling * kernel_stride_,
                                .y = y});
}

/// hidden <- sigma(K x + b), or sigma((K - K^T) x + b), which is F itself.
void CudaSegment::evaluate_hidden(int coupling, int batch, const float* x, float* hidden) {
  convolve(kernel_, coupling, batch, x, hidden);
  engine_->launch(BiasRelu{.num_values = static_cast<std::int64_t>(size(batch)),
                           .channels = shape_.channels,
                           .bias = bias_.data() + coupling * shape_.channels,
                           .values = hidden});
}

/// F: K^T hidden in scratch, or hidden itself.
const float* CudaSegment::evaluate_force(int coupling, int batch, const float* hidden) {
  if (shape_.force == Force::antisymmetric) return hidden;
  float* const force = engine_->scratch(Scratch::force, size(batch));
  convolve(adjoint_kernel_, coupling, batch, hidden, force);
  return force;
}

/// The state or adjoint of a micro-batch in the layout of the convolutions, taken from there and
/// brought back.
struct CudaSegment::Pair {
  Pair(const CudaSegment& segment, int batch, Scratch first, Scratch second)
      : engine(*segment.engine_),
        shape(segment.images(batch)),
        slot{engine.scratch(first, segment.size(batch)),
             engine.scratch(second, segment.size(batch))} {}

  void take(StateView<float> view) {
    for (int which = 0; which < 2; ++which)
      engine.launch(ChannelsLast{shape, view.slot[which], slot[which]});
  }
  void bring_back(StateView<float> view) const { bring_back(view, slot[0], slot[1]); }
  void bring_back(StateView<float> view, const float* slot_0, const float* slot_1) const {
    engine.launch(ChannelsFirst{shape, slot_0, view.slot[0]});
    engine.launch(ChannelsFirst{shape, slot_1, view.slot[1]});
  }

  Engine& engine;
  ImageShape shape;
  float* slot[2];
};

void CudaSegment::advance(CouplingRange range, StateView<float> state, RangeCounts* counts,
                          Recording* recording) {
  if (range.first >= range.last || state.batch == 0) return;
  const int batch = state.batch;
  const std::size_t size = this->size(batch);
  auto* const record = dynamic_cast<CudaRecording*>(recording);
  REVODE_CHECK(recording == nullptr || (record != nullptr && record->batch >= batch),
               "a recording of another backend or of a smaller batch than {} was handed in", batch);
  Pair at(*this, batch, Scratch::state_0, Scratch::state_1);
  at.take(state);
  float* const scratch_hidden = engine_->scratch(Scratch::hidden, size);
  if (record != nullptr)
    engine_->copy(record->state.data() + range.first * record->entry_size,
                  at.slot[target_slot(range.first)], size * sizeof(float));
  for (int j = range.first; j < range.last; ++j) {
    float* const target = at.slot[target_slot(j)];
    const float* const other = at.slot[1 - target_slot(j)];
    float* hidden = scratch_hidden;
    if (record != nullptr) {
      hidden = record->hidden.data() + j * record->entry_size;
      engine_->copy(record->state.data() + (j + 1) * record->entry_size, other,
                    size * sizeof(float));
    }
    evaluate_hidden(j, batch, other, hidden);
    // target <- (gamma target + beta other) + round(s F(other))
    engine_->launch(AdvanceLine{.line = line(target_slot(j)),
                                .num_values = static_cast<std::int64_t>(size),
                                .force = evaluate_force(j, batch, hidden),
                                .other = other,
                                .target = target,
                                .counts = counts});
    engine_->make_progress();
  }
  at.bring_back(state);
}

void CudaSegment::retreat(CouplingRange range, StateView<float> state, StateView<float> adjoint,
                          const Recording* recording, OverflowNote overflow) {
  if (range.first >= range.last || state.batch == 0) return;
  const int batch = state.batch;
  const std::size_t size = this->size(batch);
  const auto* const record = dynamic_cast<const CudaRecording*>(recording);
  REVODE_CHECK(recording == nullptr || (record != nullptr && record->batch >= batch),
               "a recording of another backend or of a smaller batch than {} was handed in", batch);
  const auto recorded_state = [&](int entry) {
    return record->state.data() + entry * record->entry_size;
  };
  Pair at(*this, batch, Scratch::state_0, Scratch::state_1);
  Pair adjoint_at(*this, batch, Scratch::adjoint_0, Scratch::adjoint_1);
  if (record == nullptr) at.take(state);
  adjoint_at.take(adjoint);
  float* const scratch_hidden = engine_->scratch(Scratch::hidden, size);
  for (int j = range.last - 1; j >= range.first; --j) {
    const int target = target_slot(j);
    const float *x = at.slot[1 - target], *hidden = scratch_hidden;
    if (record != nullptr) {
      x = recorded_state(j + 1);
      hidden = record->hidden.data() + j * record->entry_size;
    } else {
      evaluate_hidden(j, batch, x, scratch_hidden);
      // old target = gamma ((target - round(s F)) - beta other)
      engine_->launch(RetreatLine{.line = line(target),
                                  .num_values = static_cast<std::int64_t>(size),
                                  .force = evaluate_force(j, batch, hidden),
                                  .other = x,
                                  .target = at.slot[target]});
    }
    retreat_adjoint(j, batch, x, hidden, adjoint_at.slot[target], adjoint_at.slot[1 - target],
                    overflow);
    engine_->make_progress();
  }
  adjoint_at.bring_back(adjoint);
  if (record == nullptr) {
    at.bring_back(state);
  } else {
    const float* of_slot[2];
    of_slot[target_slot(range.first)] = recorded_state(range.first);
    of_slot[1 - target_slot(range.first)] = recorded_state(range.first + 1);
    at.bring_back(state, of_slot[0], of_slot[1]);
  }
}

/// The adjoint of coupling j at x, with sigma(...) = hidden, and its gradient.
void CudaSegment::retreat_adjoint(int j, int batch, const float* x, const float* hidden,
                                  float* adjoint_target, float* adjoint_other,
                                  OverflowNote overflow) {
  const auto num_values = static_cast<std::int64_t>(size(batch));
  const bool symmetric = shape_.force == Force::symmetric;
  float* const grad_force = engine_->scratch(Scratch::grad_force, num_values);
  float* const product = engine_->scratch(Scratch::force, num_values);
  float* const kernel_gradient = engine_->scratch(Scratch::kernel_gradient, shape_.kernel_size());
  const auto add_kernel_gradient = [&](const float* in, const float* grad_out, bool adds) {
    engine_->convolve(ConvolutionGradient{.batch = batch,
                                          .height = shape_.height,
                                          .width = shape_.width,
                                          .in_channels = shape_.channels,
                                          .out_channels = shape_.channels,
                                          .x = in,
                                          .grad_y = grad_out,
                                          .grad_kernel = kernel_gradient,
                                          .adds = adds});
  };
  engine_->launch(AdjointLine{.line = line(target_slot(j)),
                              .num_values = num_values,
                              .adjoint_target = adjoint_target,
                              .adjoint_other = adjoint_other,
                              .grad_force = grad_force});
  // u = K x + b;  grad_u = sigma'(u) (K grad_F), or sigma'(u) grad_F
  float* grad_u = grad_force;
  if (symmetric) {
    grad_u = engine_->scratch(Scratch::grad_hidden, num_values);
    convolve(kernel_, j, batch, grad_force, grad_u);
    // F = K^T z gives dK from (grad_F, z)
    add_kernel_gradient(grad_force, hidden, false);
  }
  engine_->launch(Mask{.num_values = num_values, .hidden = hidden, .values = grad_u});
  // grad_x += K^T grad_u; (K - K^T)^T = -(K - K^T)
  convolve(symmetric ? adjoint_kernel_ : kernel_, j, batch, grad_u, product);
  engine_->launch(AddScaled{.num_values = num_values,
                            .factor = symmetric ? 1.0f : -1.0f,
                            .values = product,
                            .to = adjoint_other});
  // u = K x + b gives dK from (x, grad_u), and db
  add_kernel_gradient(x, grad_u, symmetric);
  engine_->launch(AddKernelGradient{.force = shape_.force,
                                    .channels = shape_.channels,
                                    .gradient = kernel_gradient,
                                    .sums = gradient_.kernel + j * shape_.kernel_size(),
                                    .overflow = overflow.highest,
                                    .overflow_code = overflow.first + j});
  engine_->launch(AddBiasGradient{.num_pixels = num_values / shape_.channels,
                                  .channels = shape_.channels,
                                  .values = grad_u,
                                  .sums = gradient_.bias + j * shape_.channels,
                                  .overflow = overflow.highest,
                                  .overflow_code = overflow.first + j});
}

}  // namespace revode::cuda
