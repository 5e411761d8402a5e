#include "backend/cuda/cuda_segment.hpp"

#include <utility>

#include "revode/core/error.hpp"

#include "backend/cuda/coupling_lines.hpp"

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

template <typename Derived, typename Base>
Derived& of_batch(Base* recording, int batch) {
  auto* const record = dynamic_cast<Derived*>(recording);
  REVODE_CHECK(record != nullptr && record->batch >= batch,
               "a recording of another backend or of a smaller batch than {} was handed in", batch);
  return *record;
}

}  // namespace

/// Of one micro-batch, entries of [batch, height, width, channels]: in entry j + 1 the input of
/// coupling j, which is the target of the one before; in entry 0 the target of coupling 0 before it
/// changes. And hidden [num_couplings].
struct CudaRecording final : Recording {
  CudaRecording(const SegmentShape& shape, int batch_in, MemorySpace& space)
      : batch(batch_in),
        entry_size(size_of_entry(shape, batch_in)),
        state((std::size_t{1} + shape.num_couplings) * entry_size, Memory::stash, space),
        hidden(shape.num_couplings * entry_size, Memory::stash, space) {}

  static std::size_t size_of_entry(const SegmentShape& shape, int batch) {
    return aligned(batch * shape.image_size());
  }

  float* state_at(int entry) { return state.data() + entry * entry_size; }
  const float* state_at(int entry) const { return state.data() + entry * entry_size; }
  float* hidden_of(int coupling) { return hidden.data() + coupling * entry_size; }
  const float* hidden_of(int coupling) const { return hidden.data() + coupling * entry_size; }

  int batch;
  std::size_t entry_size;
  Buffer<float> state, hidden;
};

CudaSegment::CudaSegment(const SegmentShape& shape, std::shared_ptr<Engine> engine)
    : shape_(shape),
      engine_(std::move(engine)),
      format_(operand_format(shape.precision, shape.channels)) {
  const std::size_t couplings = shape.num_couplings;
  MemorySpace& space = engine_->space();
  kernel_stride_ = aligned(shape.kernel_size());
  const std::size_t packed_bytes = couplings * kernel_stride_ * operand_bytes(format_.stored_as);
  kernel_ = Buffer<std::byte>(packed_bytes, Memory::packed_weights, space);
  if (shape.force == Force::symmetric)
    adjoint_kernel_ = Buffer<std::byte>(packed_bytes, Memory::packed_weights, space);
  bias_ = Buffer<float>(couplings * shape.channels, Memory::packed_weights, space);
  notes_ = Buffer<StateNotes>(1, Memory::workspace, space);
  overflow_ = Buffer<int>(1, Memory::workspace, space);
}

int CudaSegment::couplings_a_chunk() const { return worthwhile_chunk; }

ImageShape CudaSegment::images(int batch) const {
  return {batch, shape_.channels, shape_.height, shape_.width};
}

void CudaSegment::load_weights() {
  if (shape_.num_couplings == 0) return;
  engine_->launch(PackKernels{.num_couplings = shape_.num_couplings,
                              .channels = shape_.channels,
                              .stride = static_cast<std::int64_t>(kernel_stride_),
                              .kernel = weights_.kernel,
                              .forward = packed(kernel_),
                              .adjoint = packed(adjoint_kernel_)});
  engine_->copy(bias_.data(), weights_.bias, bias_.bytes());
}

std::unique_ptr<Recording> CudaSegment::make_recording(int batch) {
  return std::make_unique<CudaRecording>(shape_, batch, engine_->space());
}

std::size_t CudaSegment::recording_bytes(int batch) const {
  return (std::size_t{1} + 2 * shape_.num_couplings) * CudaRecording::size_of_entry(shape_, batch) *
         sizeof(float);
}

OperandArray CudaSegment::packed(Buffer<std::byte>& kernels) const {
  return {format_, kernels.data()};
}

/// What a product takes of values [batch, ...], which whoever writes them is to write too.
CudaSegment::Operand CudaSegment::operand_of(const float* values, int batch, Scratch rounded) {
  if (format_.rounded_to == Precision::fp32) return {.values = values, .written = {}};
  void* const operand =
      engine_->scratch<std::byte>(rounded, size(batch) * operand_bytes(format_.stored_as));
  return {.values = operand, .written = {format_, operand}};
}

/// The same of values that are there.
const void* CudaSegment::round(const float* values, int batch, Scratch rounded) {
  const Operand operand = operand_of(values, batch, rounded);
  if (operand.values != values)
    engine_->launch(RoundOperand{.num_values = static_cast<std::int64_t>(size(batch)),
                                 .values = values,
                                 .operand = operand.written});
  return operand.values;
}

/// y <- kernel_j * x, which is an operand
void CudaSegment::convolve(const Buffer<std::byte>& kernels, int coupling, int batch, const void* x,
                           float* y) {
  const std::size_t kernel_bytes = kernel_stride_ * operand_bytes(format_.stored_as);
  engine_->convolve(Convolution{.batch = batch,
                                .height = shape_.height,
                                .width = shape_.width,
                                .in_channels = shape_.channels,
                                .out_channels = shape_.channels,
                                .x = x,
                                .kernel = kernels.data() + coupling * kernel_bytes,
                                .y = y,
                                .precision = format_.stored_as});
}

/// hidden <- sigma(K x + b), or sigma((K - K^T) x + b), which is F itself; F = K^T hidden is in
/// scratch.
CudaSegment::Evaluation CudaSegment::evaluate_force(int coupling, int batch, const float* x,
                                                    float* hidden) {
  const bool is_symmetric = shape_.force == Force::symmetric;
  Evaluation made{.x = round(x, batch, Scratch::rounded_x), .hidden = hidden, .force = hidden};
  Operand operand{};
  if (is_symmetric) operand = operand_of(hidden, batch, Scratch::rounded_hidden);
  convolve(kernel_, coupling, batch, made.x, hidden);
  engine_->launch(BiasRelu{.num_values = static_cast<std::int64_t>(size(batch)),
                           .channels = shape_.channels,
                           .bias = bias_.data() + coupling * shape_.channels,
                           .values = hidden,
                           .operand = operand.written});
  if (!is_symmetric) return made;
  float* const force = engine_->scratch(Scratch::force, size(batch));
  convolve(adjoint_kernel_, coupling, batch, operand.values, force);
  made.hidden_operand = operand.values;
  made.force = force;
  return made;
}

/// The state or adjoint of a micro-batch in the layout of the convolutions, taken from there and
/// brought back.
struct CudaSegment::Pair {
  Pair(const CudaSegment& segment, int batch, Scratch first, Scratch second)
      : engine(*segment.engine_),
        shape(segment.images(batch)),
        slot{engine.scratch(first, segment.size(batch)),
             engine.scratch(second, segment.size(batch))} {}

  int batch() const { return shape.batch; }
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

void CudaSegment::advance(CouplingRange range, StateView<float> state, StateNotes* notes,
                          Recording* recording) {
  if (range.first >= range.last || state.batch == 0) return;
  Pair at(*this, state.batch, Scratch::state_0, Scratch::state_1);
  at.take(state);
  if (recording != nullptr) {
    advance_through(range, at, of_batch<CudaRecording>(recording, state.batch));
  } else {
    // The same for every micro-batch.
    engine_->flush();
    advance_through(range, at);
    engine_->flush();
  }
  at.bring_back(state);
  engine_->launch(TakeStateNotes{notes_.data(), notes});
}

void CudaSegment::advance_through(CouplingRange range, const Pair& state) {
  float* const hidden = engine_->scratch(Scratch::hidden, size(state.batch()));
  for (int j = range.first; j < range.last; ++j) {
    advance_line(j, state,
                 evaluate_force(j, state.batch(), state.slot[1 - target_slot(j)], hidden));
  }
}

void CudaSegment::advance_through(CouplingRange range, const Pair& state,
                                  CudaRecording& recording) {
  const std::size_t bytes = size(state.batch()) * sizeof(float);
  engine_->copy(recording.state_at(range.first), state.slot[target_slot(range.first)], bytes);
  for (int j = range.first; j < range.last; ++j) {
    const float* const other = state.slot[1 - target_slot(j)];
    engine_->copy(recording.state_at(j + 1), other, bytes);
    advance_line(j, state, evaluate_force(j, state.batch(), other, recording.hidden_of(j)));
  }
}

/// target <- (gamma target + beta other) + round(s F(other))
void CudaSegment::advance_line(int j, const Pair& state, const Evaluation& at) {
  const int target = target_slot(j);
  engine_->launch(AdvanceLine{.line = line_of(shape_, target),
                              .num_values = static_cast<std::int64_t>(size(state.batch())),
                              .force = at.force,
                              .other = state.slot[1 - target],
                              .target = state.slot[target],
                              .notes = notes_.data()});
}

void CudaSegment::retreat(CouplingRange range, StateView<float> state, StateView<float> adjoint,
                          const Recording* recording, OverflowNote overflow) {
  if (range.first >= range.last || state.batch == 0) return;
  Pair at(*this, state.batch, Scratch::state_0, Scratch::state_1);
  Pair adjoint_at(*this, state.batch, Scratch::adjoint_0, Scratch::adjoint_1);
  adjoint_at.take(adjoint);
  if (recording != nullptr) {
    const auto& record = of_batch<const CudaRecording>(recording, state.batch);
    retreat_through(range, record, adjoint_at);
    const float* of_slot[2];
    of_slot[target_slot(range.first)] = record.state_at(range.first);
    of_slot[1 - target_slot(range.first)] = record.state_at(range.first + 1);
    at.bring_back(state, of_slot[0], of_slot[1]);
  } else {
    at.take(state);
    engine_->flush();
    retreat_through(range, at, adjoint_at);
    engine_->flush();
    at.bring_back(state);
  }
  adjoint_at.bring_back(adjoint);
  engine_->launch(TakeOverflow{overflow_.data(), overflow.first, overflow.highest});
}

void CudaSegment::retreat_through(CouplingRange range, const Pair& state, const Pair& adjoint) {
  float* const hidden = engine_->scratch(Scratch::hidden, size(state.batch()));
  for (int j = range.last - 1; j >= range.first; --j) {
    const int target = target_slot(j);
    const float* const other = state.slot[1 - target];
    const Evaluation at = evaluate_force(j, state.batch(), other, hidden);
    // old target = gamma ((target - round(s F)) - beta other)
    engine_->launch(RetreatLine{.line = line_of(shape_, target),
                                .num_values = static_cast<std::int64_t>(size(state.batch())),
                                .force = at.force,
                                .other = other,
                                .target = state.slot[target]});
    retreat_adjoint(j, at, adjoint);
  }
}

void CudaSegment::retreat_through(CouplingRange range, const CudaRecording& recording,
                                  const Pair& adjoint) {
  const int batch = adjoint.batch();
  for (int j = range.last - 1; j >= range.first; --j) {
    Evaluation at{.x = round(recording.state_at(j + 1), batch, Scratch::rounded_x),
                  .hidden = recording.hidden_of(j)};
    if (shape_.force == Force::symmetric)
      at.hidden_operand = round(at.hidden, batch, Scratch::rounded_hidden);
    retreat_adjoint(j, at, adjoint);
  }
}

/// The adjoint of coupling j where F was evaluated, and its gradient.
void CudaSegment::retreat_adjoint(int j, const Evaluation& at, const Pair& adjoint) {
  const int batch = adjoint.batch();
  const auto num_values = static_cast<std::int64_t>(size(batch));
  const bool is_symmetric = shape_.force == Force::symmetric;
  float* const grad_force = engine_->scratch(Scratch::grad_force, num_values);
  float* const product = engine_->scratch(Scratch::force, num_values);
  const auto kernel_gradient = [&](Scratch which, const void* in, const void* grad_out) {
    float* const gradient = engine_->scratch(which, shape_.kernel_size());
    engine_->convolve(ConvolutionGradient{.batch = batch,
                                          .height = shape_.height,
                                          .width = shape_.width,
                                          .in_channels = shape_.channels,
                                          .out_channels = shape_.channels,
                                          .x = in,
                                          .grad_y = grad_out,
                                          .grad_kernel = gradient,
                                          .precision = format_.stored_as});
    return gradient;
  };
  Operand grad_operand{};
  if (is_symmetric) grad_operand = operand_of(grad_force, batch, Scratch::rounded_gradient);
  engine_->launch(AdjointLine{.line = line_of(shape_, target_slot(j)),
                              .num_values = num_values,
                              .adjoint_target = adjoint.slot[target_slot(j)],
                              .adjoint_other = adjoint.slot[1 - target_slot(j)],
                              .grad_force = grad_force,
                              .operand = grad_operand.written});
  // u = K x + b;  grad_u = sigma'(u) (K grad_F), or sigma'(u) grad_F
  float* grad_u = grad_force;
  const float* second_part = nullptr;
  if (is_symmetric) {
    grad_u = engine_->scratch(Scratch::grad_hidden, num_values);
    convolve(kernel_, j, batch, grad_operand.values, grad_u);
    // F = K^T z gives dK from (grad_F, z)
    second_part =
        kernel_gradient(Scratch::second_kernel_gradient, grad_operand.values, at.hidden_operand);
  }
  grad_operand = operand_of(grad_u, batch, Scratch::rounded_gradient);
  engine_->launch(Mask{.num_values = num_values,
                       .hidden = at.hidden,
                       .values = grad_u,
                       .operand = grad_operand.written});
  // grad_x += K^T grad_u; (K - K^T)^T = -(K - K^T)
  convolve(is_symmetric ? adjoint_kernel_ : kernel_, j, batch, grad_operand.values, product);
  engine_->launch(AddScaled{.num_values = num_values,
                            .factor = is_symmetric ? 1.0f : -1.0f,
                            .values = product,
                            .to = adjoint.slot[1 - target_slot(j)]});
  // u = K x + b gives dK from (x, grad_u), and db
  const float* const first_part =
      kernel_gradient(Scratch::kernel_gradient, at.x, grad_operand.values);
  engine_->launch(AddKernelGradient{.force = shape_.force,
                                    .channels = shape_.channels,
                                    .gradient = first_part,
                                    .second_part = second_part,
                                    .sums = gradient_.kernel + j * shape_.kernel_size(),
                                    .overflow = overflow_.data(),
                                    .overflow_code = 1 + j});
  engine_->launch(AddBiasGradient{.num_pixels = num_values / shape_.channels,
                                  .channels = shape_.channels,
                                  .values = grad_u,
                                  .sums = gradient_.bias + j * shape_.channels,
                                  .overflow = overflow_.data(),
                                  .overflow_code = 1 + j});
}

}  // namespace revode::cuda
