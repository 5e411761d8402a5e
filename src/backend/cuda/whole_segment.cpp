#include "backend/cuda/whole_segment.hpp"

#include <algorithm>
#include <bit>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "revode/core/error.hpp"

#include "backend/cuda/coupling_lines.hpp"

namespace revode::cuda {
namespace {

/// Each call takes the states into shared memory and back, which is worth a small part of a
/// coupling.
constexpr int worthwhile_chunk = 8;

/// With fewer threads a multiprocessor has too little to do while some wait.
constexpr int wanted_threads = 256;

constexpr int warp_size = 32;

int round_up(int number, int multiple) { return (number + multiple - 1) / multiple * multiple; }

std::optional<ImageBlocks> cut_image(const SegmentShape& shape, int cluster_size,
                                     int channels_a_thread) {
  const int num_chunks = round_up(shape.channels, 4) / 4;
  const int band = shape.height / cluster_size;
  const std::int64_t num_threads = std::int64_t{1} * shape.width *
                                   (round_up(band, rows_a_thread) / rows_a_thread) * num_chunks *
                                   4 / channels_a_thread;
  if (shape.height % cluster_size != 0 || 4 * num_chunks % channels_a_thread != 0 ||
      num_threads > most_threads_of_images)
    return {};
  return ImageBlocks{.channels = shape.channels,
                     .height = shape.height,
                     .width = shape.width,
                     .cluster_size = cluster_size,
                     .num_chunks = num_chunks,
                     .num_threads = round_up(static_cast<int>(num_threads), warp_size)};
}

/// The smallest cluster that does, and in it as many channels a thread as leave enough threads.
template <typename SharedFours>
std::optional<ImageLayout> lay_out(const SegmentShape& shape, const ClusterLimits& limits,
                                   SharedFours&& shared_fours) {
  for (int cluster_size = 1; cluster_size <= limits.cluster_size; cluster_size *= 2) {
    std::optional<ImageLayout> found;
    for (const int channels_a_thread : {4, 8}) {
      const std::optional<ImageBlocks> image = cut_image(shape, cluster_size, channels_a_thread);
      if (!image || shared_fours(*image) * sizeof(Four) > limits.shared_bytes) continue;
      if (!found || image->num_threads >= wanted_threads)
        found = ImageLayout{*image, channels_a_thread};
    }
    if (found) return found;
  }
  return {};
}

/// Of one micro-batch: the targets of all couplings before they change; see ImageSweep.
struct WholeRecording final : Recording {
  WholeRecording(std::size_t fours, int batch_in, MemorySpace& space)
      : batch(batch_in), targets(fours, Memory::stash, space) {}

  int batch;
  Buffer<Four> targets;
};

void check_recording(const WholeRecording* record, int batch) {
  REVODE_CHECK(record != nullptr && record->batch >= batch,
               "a recording of another backend or of a smaller batch than {} was handed in", batch);
}

/// Calls launch(body) with channels_a_thread as a constant.
template <typename Launch>
void with_channels(int channels_a_thread, Launch&& launch) {
  if (channels_a_thread == 4)
    launch(std::integral_constant<int, 4>());
  else
    launch(std::integral_constant<int, 8>());
}

}  // namespace

std::optional<ImageLayout> lay_out_advance(const SegmentShape& shape, const ClusterLimits& limits) {
  return lay_out(shape, limits, [&](const ImageBlocks& image) {
    return AdvanceImages<4>::shared_fours(image, shape.force);
  });
}

std::optional<ImageLayout> lay_out_retreat(const SegmentShape& shape, const ClusterLimits& limits) {
  return lay_out(shape, limits,
                 [](const ImageBlocks& image) { return RetreatImages<4>::shared_fours(image); });
}

WholeSegment::WholeSegment(const SegmentShape& shape, const ImageLayout& advance,
                           const ImageLayout& retreat, std::shared_ptr<Engine> engine)
    : shape_(shape), advance_(advance), retreat_(retreat), engine_(std::move(engine)) {
  MemorySpace& space = engine_->space();
  const std::size_t couplings = shape.num_couplings;
  const ImageBlocks& image = advance_.image;
  forward_ = Buffer<float>(4 * couplings * image.num_chunks * image.weight_fours(),
                           Memory::packed_weights, space);
  if (shape.force == Force::symmetric)
    adjoint_ = Buffer<float>(forward_.size(), Memory::packed_weights, space);
  bias_ = Buffer<float>(couplings * shape.channels, Memory::packed_weights, space);
}

std::string WholeSegment::description() const {
  return fmt::format("all couplings at once, {} / {} blocks an image", advance_.image.cluster_size,
                     retreat_.image.cluster_size);
}

int WholeSegment::couplings_a_chunk() const { return worthwhile_chunk; }

void WholeSegment::load_weights() {
  if (shape_.num_couplings == 0) return;
  engine_->launch(PackForBlocks{.num_couplings = shape_.num_couplings,
                                .channels = shape_.channels,
                                .padded_channels = advance_.image.padded_channels(),
                                .kernel = weights_.kernel,
                                .forward = forward_.data(),
                                .adjoint = adjoint_.data()});
  engine_->copy(bias_.data(), weights_.bias, bias_.bytes());
}

std::unique_ptr<Recording> WholeSegment::make_recording(int batch) {
  return std::make_unique<WholeRecording>(recording_bytes(batch) / sizeof(Four), batch,
                                          engine_->space());
}

std::size_t WholeSegment::recording_bytes(int batch) const {
  return (std::size_t{1} + shape_.num_couplings) * batch * advance_.image.plane_size() *
         advance_.image.num_chunks * sizeof(Four);
}

ImageSweep WholeSegment::sweep(CouplingRange range, const ImageLayout& layout,
                               StateView<float> state) const {
  return {.image = layout.image,
          .force = shape_.force,
          .range = range,
          .first_target = shape_.first_target,
          .line = {line_of(shape_, 0), line_of(shape_, 1)},
          .weights = {.forward = reinterpret_cast<const Four*>(forward_.data()),
                      .adjoint = reinterpret_cast<const Four*>(adjoint_.data()),
                      .bias = bias_.data()},
          .batch = state.batch,
          .state = {state.slot[0], state.slot[1]}};
}

void WholeSegment::advance(CouplingRange range, StateView<float> state, StateNotes* notes,
                           Recording* recording) {
  if (range.first >= range.last || state.batch == 0) return;
  ImageSweep of_images = sweep(range, advance_, state);
  if (recording != nullptr) {
    auto* const record = dynamic_cast<WholeRecording*>(recording);
    check_recording(record, state.batch);
    of_images.record = record->targets.data();
    of_images.record_batch = record->batch;
  }
  with_channels(advance_.channels_a_thread, [&](auto channels) {
    engine_->launch(AdvanceImages<channels.value>{of_images, notes});
  });
  engine_->make_progress();
}

void WholeSegment::retreat(CouplingRange range, StateView<float> state, StateView<float> adjoint,
                           const Recording* recording, OverflowNote overflow) {
  if (range.first >= range.last || state.batch == 0) return;
  ImageSweep of_images = sweep(range, retreat_, state);
  if (recording != nullptr) {
    const auto* const record = dynamic_cast<const WholeRecording*>(recording);
    check_recording(record, state.batch);
    of_images.recorded = record->targets.data();
    of_images.record_batch = record->batch;
  }
  // Each image and block contributes to an entry once or twice; together they stay within what one
  // contribution may be.
  const auto num_contributions =
      static_cast<unsigned>(2 * state.batch * retreat_.image.cluster_size);
  const auto limit = static_cast<float>(contribution_limit / std::bit_ceil(num_contributions));
  with_channels(retreat_.channels_a_thread, [&](auto channels) {
    engine_->launch(RetreatImages<channels.value>{.sweep = of_images,
                                                  .tiles = GradientTiles(retreat_.image),
                                                  .adjoint = {adjoint.slot[0], adjoint.slot[1]},
                                                  .grad_kernel = gradient_.kernel,
                                                  .grad_bias = gradient_.bias,
                                                  .limit = limit,
                                                  .overflow = overflow.highest,
                                                  .overflow_first = overflow.first});
  });
  engine_->make_progress();
}

}  // namespace revode::cuda
