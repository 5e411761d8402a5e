// Spreads a micro-batch over threads in such a way that no result depends on them.
#include "backend/cpu/cpu_segment.hpp"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "revode/backend/backend.hpp"
#include "revode/core/error.hpp"

#include "backend/check_shape.hpp"

namespace revode::cpu {
namespace {

/// Small images are taken through the couplings together, so that the weights, which a group reads
/// once a coupling, are worth their way into the cache. On the way back with Winograd, more are: a
/// group's weight gradient is transformed back once, which costs as much as a convolution of some
/// four tiles.
constexpr int pixels_a_group = 256;
constexpr int pixels_a_winograd_retreat = 1024;
constexpr int most_images_a_group = 8;

int images_a_group(const SegmentShape& shape, std::size_t pixels) {
  return static_cast<int>(
      std::clamp<std::size_t>(pixels / shape.plane_size(), 1, most_images_a_group));
}

/// Floats that a lane's gradients may take: the range is cut into chunks of couplings that fit, so
/// that the sums do not grow with depth (and stay in the cache). States are packed anew for each
/// chunk, which must not show: up to `worthwhile_chunk` couplings may take more.
constexpr std::size_t lane_budget = 64 * 1024;
constexpr std::size_t large_lane_budget = 192 * 1024;
constexpr std::size_t worthwhile_chunk = 12;

/// Calls body(packed, canonical, transposed) for each weight K[o][i][ky][kx] of a c x c kernel:
/// its place in a packed one, its place, and that of K^T[o][i][ky][kx] = K[i][o][2 - ky][2 - kx].
template <typename Body>
void for_each_weight(const Planes& planes, Body&& body) {
  const std::size_t c = planes.channels;
  for (std::size_t o = 0; o < c; ++o) {
    for (std::size_t i = 0; i < c; ++i) {
      const std::size_t pair = o / block_channels * planes.num_blocks() + i / block_channels;
      const std::size_t within = 3 * (i % block_channels) * block_channels + o % block_channels;
      for (std::size_t ky = 0; ky < 3; ++ky) {
        const std::size_t packed = (pair * 3 + ky) * planes.kernel_slice_size() + within;
        for (std::size_t kx = 0; kx < 3; ++kx)
          body(packed + kx * block_channels, (o * c + i) * 9 + ky * 3 + kx,
               (i * c + o) * 9 + 8 - ky * 3 - kx);
      }
    }
  }
}

/// See GroupRecord; images [batch] within an entry.
struct CpuRecording final : Recording {
  CpuRecording(const SegmentShape& shape, const Planes& planes, int batch_in)
      : batch(batch_in),
        image_size(planes.bare_image_size()),
        state(state_size(shape, planes, batch), Memory::stash),
        hidden(hidden_size(shape, planes, batch), Memory::stash) {}

  static std::size_t state_size(const SegmentShape& shape, const Planes& planes, int batch) {
    return (std::size_t{1} + shape.num_couplings) * batch * planes.bare_image_size();
  }
  static std::size_t hidden_size(const SegmentShape& shape, const Planes& planes, int batch) {
    return std::size_t{1} * shape.num_couplings * batch * planes.bare_image_size();
  }

  GroupRecord of_image(int n) {
    return {state.data() + n * image_size, hidden.data() + n * image_size, batch * image_size};
  }
  RecordedGroup of_image(int n) const {
    return {state.data() + n * image_size, hidden.data() + n * image_size, batch * image_size};
  }

  int batch;
  std::size_t image_size;
  Buffer<float> state;
  Buffer<float> hidden;
};

/// What a segment recorded of the images from `image` on: a GroupRecord, or a RecordedGroup of a
/// recording that is only read.
template <typename AnyRecording>
auto record_of(AnyRecording* recording, int image, int batch) {
  using Record =
      std::conditional_t<std::is_const_v<AnyRecording>, const CpuRecording, CpuRecording>;
  using Images = decltype(std::declval<Record&>().of_image(image));
  if (recording == nullptr) return Images{};
  auto* record = dynamic_cast<Record*>(recording);
  REVODE_CHECK(record != nullptr && record->batch >= batch,
               "a recording of another backend or of a smaller batch than {} was handed in", batch);
  return record->of_image(image);
}

}  // namespace

void Engine::reserve_scratch(std::size_t size) {
  for (Buffer<float>& buffer : scratch_) buffer.ensure(size, Memory::workspace);
}

float* Engine::lane_sums(std::size_t size) {
  lane_sums_.ensure(size, Memory::workspace);
  return lane_sums_.data();
}

CpuSegment::CpuSegment(const SegmentShape& shape, std::shared_ptr<Engine> engine)
    : shape_(shape), engine_(std::move(engine)) {
  check_shape(shape);
  plan_.force = shape.force;
  plan_.planes = {shape.channels, shape.height, shape.width};
  plan_.form = best_form(plan_.planes);
  plan_.first_target = shape.first_target;
  plan_.gamma = static_cast<float>(shape.gamma);
  plan_.beta = static_cast<float>(shape.beta);
  for (int slot = 0; slot < 2; ++slot) plan_.scale[slot] = static_cast<float>(shape.scale[slot]);
  plan_.grid_bits = shape.grid_bits;

  const std::size_t couplings = shape.num_couplings;
  kernel_ = Buffer<float>(couplings * plan_.kernel_size(), Memory::packed_weights);
  if (shape.force == Force::symmetric)
    adjoint_kernel_ = Buffer<float>(kernel_.size(), Memory::packed_weights);
  bias_ = Buffer<float>(couplings * plan_.planes.packed_bias_size(), Memory::packed_weights);
  plan_.kernel = kernel_.data();
  plan_.adjoint_kernel = adjoint_kernel_.data();
  plan_.bias = bias_.data();

  images_an_advance_ = images_a_group(shape, pixels_a_group);
  images_a_retreat_ = images_a_group(
      shape, plan_.form == Form::direct ? pixels_a_group : pixels_a_winograd_retreat);
}

std::string CpuSegment::description() const {
  return plan_.form == Form::direct ? "direct" : "winograd F(4x4,3x3)";
}

void CpuSegment::load_weights() {
  const Planes& planes = plan_.planes;
  const bool transform = plan_.form == Form::winograd;
  if (transform) engine_->reserve_scratch(2 * planes.packed_kernel_size());
  engine_->pool.parallel_for(shape_.num_couplings, [&](int j, int thread) {
    const float* k = weights_.kernel + j * shape_.kernel_size();
    float* const final_kernel = kernel_.data() + j * plan_.kernel_size();
    float* const final_adjoint = adjoint_kernel_.data() + j * plan_.kernel_size();
    float* packed = final_kernel;
    float* adjoint = final_adjoint;
    if (transform) {
      packed = engine_->scratch(thread);
      adjoint = packed + planes.packed_kernel_size();
      if (planes.channels % block_channels != 0)  // spare channels: nothing else clears them
        std::fill_n(packed, 2 * planes.packed_kernel_size(), 0.0f);
    }
    if (shape_.force == Force::symmetric) {
      for_each_weight(planes, [&](std::size_t to, std::size_t from, std::size_t transposed) {
        packed[to] = k[from];
        adjoint[to] = k[transposed];
      });
      if (transform) transform_packed_kernel(planes, adjoint, final_adjoint);
    } else {
      for_each_weight(planes, [&](std::size_t to, std::size_t from, std::size_t transposed) {
        packed[to] = k[from] - k[transposed];
      });
    }
    if (transform) transform_packed_kernel(planes, packed, final_kernel);
    std::copy_n(weights_.bias + j * shape_.channels, shape_.channels,
                bias_.data() + j * planes.packed_bias_size());
  });
}

std::unique_ptr<Recording> CpuSegment::make_recording(int batch) {
  return std::make_unique<CpuRecording>(shape_, plan_.planes, batch);
}

std::size_t CpuSegment::recording_bytes(int batch) const {
  return cpu_recording_bytes(shape_, batch);
}

ImageGroup CpuSegment::group_of(const StateView<float>& state, int first_image,
                                int num_images) const {
  const std::size_t offset = first_image * shape_.image_size();
  return {{state.slot[0] + offset, state.slot[1] + offset}, num_images};
}

void CpuSegment::advance(CouplingRange range, StateView<float> state, StateNotes* notes,
                         Recording* recording) {
  if (range.first >= range.last || state.batch == 0) return;
  engine_->reserve_scratch(advance_scratch_size(plan_, images_an_advance_));
  // As many groups for each thread, of nearly the same size: no image's bits depend on its group.
  const int num_threads = engine_->pool.num_threads();
  const int num_full = (state.batch + images_an_advance_ - 1) / images_an_advance_;
  const int num_groups =
      std::min(state.batch, (num_full + num_threads - 1) / num_threads * num_threads);
  const auto first_of = [&](int group) {
    return static_cast<int>(static_cast<std::int64_t>(group) * state.batch / num_groups);
  };
  std::vector<StateNotes> group_notes(num_groups);
  engine_->pool.parallel_for(num_groups, [&](int group, int thread) {
    const int first = first_of(group);
    group_notes[group] =
        advance_group(plan_, range, group_of(state, first, first_of(group + 1) - first),
                      record_of(recording, first, state.batch), engine_->scratch(thread));
  });
  if (notes == nullptr) return;
  for (const StateNotes& more : group_notes) *notes += more;
}

int CpuSegment::couplings_a_chunk() const {
  const std::size_t lane_size = LaneSums{plan_.planes, 1, 1}.lane_size();
  return static_cast<int>(std::max({std::size_t{1}, lane_budget / lane_size,
                                    std::min(worthwhile_chunk, large_lane_budget / lane_size)}));
}

void CpuSegment::retreat(CouplingRange range, StateView<float> state, StateView<float> adjoint,
                         const Recording* recording, OverflowNote overflow) {
  if (range.first >= range.last || state.batch == 0) return;
  engine_->reserve_scratch(
      std::max(retreat_scratch_size(plan_, images_a_retreat_), 2 * shape_.kernel_size()));
  const Lanes lanes(state.batch);
  const int chunk_size = std::min(couplings_a_chunk(), range.last - range.first);
  LaneSums sums{plan_.planes, lanes.count, chunk_size};
  sums.values = engine_->lane_sums(lanes.count * sums.lane_size());

  for (int last = range.last; last > range.first; last -= chunk_size) {
    const CouplingRange chunk{std::max(range.first, last - chunk_size), last};
    engine_->pool.parallel_for(lanes.count, [&](int lane, int thread) {
      std::fill_n(sums.kernel(lane, 0), sums.lane_size(), 0.0f);
      for (int first = lanes.first(lane); first < lanes.first(lane + 1);
           first += images_a_retreat_) {
        const int num_images = std::min(images_a_retreat_, lanes.first(lane + 1) - first);
        retreat_group(plan_, chunk, group_of(state, first, num_images),
                      group_of(adjoint, first, num_images),
                      {sums.kernel(lane, 0), sums.bias(lane, 0), chunk.first},
                      record_of(recording, first, state.batch), engine_->scratch(thread));
      }
    });
    add_lane_sums(chunk, sums, overflow);
  }
}

/// gradient += that of couplings j = chunk.first + k, from the sums of all lanes, lane 0 first.
/// Lane 0's sums are used up.
void CpuSegment::add_lane_sums(CouplingRange chunk, const LaneSums& sums, OverflowNote overflow) {
  const std::size_t kernel_size = shape_.kernel_size(), bias_size = shape_.channels;
  std::vector<char> fits(chunk.last - chunk.first);  // by coupling, each its own thread's
  engine_->pool.parallel_for(chunk.last - chunk.first, [&](int k, int thread) {
    for (int lane = 1; lane < sums.num_lanes; ++lane) {
      add_arrays(sums.kernel(0, k), sums.kernel(lane, k), plan_.planes.packed_kernel_size());
      add_arrays(sums.bias(0, k), sums.bias(lane, k), plan_.planes.packed_bias_size());
    }
    const int j = chunk.first + k;
    const bool kernel_fits =
        add_to_exact_sums(unpack_kernel(sums.kernel(0, k), engine_->scratch(thread)), kernel_size,
                          gradient_.kernel + j * kernel_size);
    const bool bias_fits =
        add_to_exact_sums(sums.bias(0, k), bias_size, gradient_.bias + j * bias_size);
    fits[k] = kernel_fits && bias_fits;
  });
  for (int j = chunk.first; j < chunk.last; ++j)
    if (!fits[j - chunk.first]) overflow.at(j);
}

/// The gradient of K: that of its copy, or (A = K - K^T) dK[o][i][k] = dA[o][i][k] - dA[i][o][-k].
/// In scratch, which has room for two kernels.
const float* CpuSegment::unpack_kernel(const float* packed, float* scratch) const {
  float* const of_copy = scratch;
  for_each_weight(plan_.planes, [&](std::size_t from, std::size_t to, std::size_t) {
    of_copy[to] = packed[from];
  });
  if (shape_.force == Force::symmetric) return of_copy;
  float* const difference = scratch + shape_.kernel_size();
  for_each_weight(plan_.planes, [&](std::size_t, std::size_t to, std::size_t transposed) {
    difference[to] = of_copy[to] - of_copy[transposed];
  });
  return difference;
}

}  // namespace revode::cpu

std::size_t revode::cpu_recording_bytes(const SegmentShape& shape, int batch) {
  const cpu::Planes planes{shape.channels, shape.height, shape.width};
  return (cpu::CpuRecording::state_size(shape, planes, batch) +
          cpu::CpuRecording::hidden_size(shape, planes, batch)) *
         sizeof(float);
}
