#include "backend/cuda/whole_segment.hpp"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "revode/core/buffer.hpp"
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

/// By multiply-adds in single precision.
struct FusedSweeps {
  using Image = ImageBlocks;
  struct Layout {
    Image image;
    GradientTiles tiles;
    int channels_a_thread = 0;  ///< 4 or 8
  };

  /// In a cluster of this size, as many channels a thread as leave enough threads.
  static std::optional<Layout> lay_out(const SegmentShape& shape, int cluster_size,
                                       std::size_t most_fours, bool is_advance) {
    std::optional<Layout> found;
    for (const int channels_a_thread : {4, 8}) {
      const std::optional<Image> image = cut_image(shape, cluster_size, channels_a_thread);
      if (!image) continue;
      const Layout layout{*image, GradientTiles(*image), channels_a_thread};
      if (shared_fours(layout, shape.force, is_advance) > most_fours) continue;
      if (!found || image->num_threads >= wanted_threads) found = layout;
    }
    return found;
  }
  static std::size_t shared_fours(const Layout& layout, Force force, bool is_advance) {
    using Products = FusedProducts<4>;
    return is_advance ? AdvanceImages<Products>::shared_fours(layout.image, force)
                      : RetreatImages<Products>::shared_fours(layout.image, layout.tiles);
  }

  /// Calls launch(products) with those of the layout.
  template <typename Launch>
  static void with_products(const Layout& layout, Launch&& launch) {
    if (layout.channels_a_thread == 4)
      launch(FusedProducts<4>());
    else
      launch(FusedProducts<8>());
  }

  static PackForBlocks pack(const SegmentShape& shape, const Image& image, const float* kernel,
                            Four* forward, Four* adjoint) {
    return {.num_couplings = shape.num_couplings,
            .channels = shape.channels,
            .padded_channels = image.padded_channels(),
            .kernel = kernel,
            .forward = reinterpret_cast<float*>(forward),
            .adjoint = reinterpret_cast<float*>(adjoint)};
  }
};

/// On tensor cores.
template <Precision precision>
struct TensorSweeps {
  using Image = TensorBlocks<precision>;
  struct Layout {
    Image image;
    TensorGradientTiles tiles;
  };

  /// In a cluster of this size, as many tiles of gradients at once as find room.
  static std::optional<Layout> lay_out(const SegmentShape& shape, int cluster_size,
                                       std::size_t most_fours, bool is_advance) {
    if (shape.width % run_of_pixels != 0 || shape.height % cluster_size != 0) return {};
    constexpr int most_warps = most_threads_of_images / lanes_a_warp;
    Image image{.channels = shape.channels,
                .height = shape.height,
                .width = shape.width,
                .cluster_size = cluster_size,
                .num_chunks = round_up(shape.channels, channels_a_block) / 4};
    const int num_warps = TensorTile::num_warps(image);
    if (num_warps > most_warps) return {};
    image.num_threads = lanes_a_warp * (is_advance ? num_warps : most_warps);
    for (int gradient_warps = most_warps; gradient_warps >= 3; --gradient_warps) {
      const Layout layout{image, TensorGradientTiles(image, gradient_warps)};
      if (shared_fours(layout, shape.force, is_advance) <= most_fours) return layout;
    }
    return {};
  }
  static std::size_t shared_fours(const Layout& layout, Force force, bool is_advance) {
    using Products = TensorProducts<precision>;
    return is_advance ? AdvanceImages<Products>::shared_fours(layout.image, force)
                      : RetreatImages<Products>::shared_fours(layout.image, layout.tiles);
  }

  template <typename Launch>
  static void with_products(const Layout&, Launch&& launch) {
    launch(TensorProducts<precision>());
  }

  static PackForTensorCores<precision> pack(const SegmentShape& shape, const Image& image,
                                            const float* kernel, Four* forward, Four* adjoint) {
    return {.num_couplings = shape.num_couplings,
            .channels = shape.channels,
            .num_blocks = image.num_blocks(),
            .kernel = kernel,
            .forward = forward,
            .adjoint = adjoint};
  }
};

/// How images lie in clusters there and back.
template <typename Sweeps>
struct Layouts {
  typename Sweeps::Layout advance, retreat;
};

/// The smallest clusters that do.
template <typename Sweeps>
std::optional<Layouts<Sweeps>> lay_out(const SegmentShape& shape, const ClusterLimits& limits) {
  const auto smallest = [&](bool is_advance) -> std::optional<typename Sweeps::Layout> {
    for (int cluster_size = 1; cluster_size <= limits.cluster_size; cluster_size *= 2)
      if (auto found =
              Sweeps::lay_out(shape, cluster_size, limits.shared_bytes / sizeof(Four), is_advance))
        return found;
    return {};
  };
  const auto advance = smallest(true), retreat = smallest(false);
  if (!advance || !retreat) return {};
  return Layouts<Sweeps>{*advance, *retreat};
}

/// Calls f with the sweeps of a precision.
template <typename Function>
auto with_sweeps(Precision precision, Function&& f) {
  switch (precision) {
    case Precision::tf32:
      return f(TensorSweeps<Precision::tf32>());
    case Precision::bf16:
      return f(TensorSweeps<Precision::bf16>());
    case Precision::fp32:
      break;
  }
  return f(FusedSweeps());
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

template <typename Sweeps>
class WholeSegment final : public Segment<float> {
 public:
  WholeSegment(const SegmentShape& shape, const Layouts<Sweeps>& layouts,
               std::shared_ptr<Engine> engine)
      : shape_(shape),
        advance_(layouts.advance),
        retreat_(layouts.retreat),
        engine_(std::move(engine)) {
    MemorySpace& space = engine_->space();
    const std::size_t couplings = shape.num_couplings;
    const auto& image = advance_.image;
    forward_ = Buffer<Four>(couplings * image.num_steps() * image.weight_fours(),
                            Memory::packed_weights, space);
    if (shape.force == Force::symmetric)
      adjoint_ = Buffer<Four>(forward_.size(), Memory::packed_weights, space);
    bias_ = Buffer<float>(couplings * shape.channels, Memory::packed_weights, space);
  }

  const SegmentShape& shape() const override { return shape_; }
  std::string description() const override {
    return fmt::format("all couplings at once, {} / {} blocks an image",
                       advance_.image.cluster_size, retreat_.image.cluster_size);
  }
  void bind(const SegmentWeights<float>& weights) override { weights_ = weights; }
  void bind_gradient(const SegmentGradient& gradient) override { gradient_ = gradient; }
  int couplings_a_chunk() const override { return worthwhile_chunk; }

  void load_weights() override {
    if (shape_.num_couplings == 0) return;
    engine_->launch(
        Sweeps::pack(shape_, advance_.image, weights_.kernel, forward_.data(), adjoint_.data()));
    engine_->copy(bias_.data(), weights_.bias, bias_.bytes());
  }

  std::unique_ptr<Recording> make_recording(int batch) override {
    return std::make_unique<WholeRecording>(recording_bytes(batch) / sizeof(Four), batch,
                                            engine_->space());
  }
  std::size_t recording_bytes(int batch) const override {
    return (std::size_t{1} + shape_.num_couplings) * batch * advance_.image.plane_size() *
           advance_.image.num_chunks * sizeof(Four);
  }

  void advance(CouplingRange range, StateView<float> state, StateNotes* notes,
               Recording* recording) override {
    if (range.first >= range.last || state.batch == 0) return;
    auto of_images = sweep(range, advance_, state);
    if (recording != nullptr) {
      auto* const record = dynamic_cast<WholeRecording*>(recording);
      check_recording(record, state.batch);
      of_images.record = record->targets.data();
      of_images.record_batch = record->batch;
    }
    Sweeps::with_products(advance_, [&](auto products) {
      engine_->launch(AdvanceImages<decltype(products)>{of_images, notes});
    });
    engine_->make_progress();
  }

  void retreat(CouplingRange range, StateView<float> state, StateView<float> adjoint,
               const Recording* recording, OverflowNote overflow) override {
    if (range.first >= range.last || state.batch == 0) return;
    auto of_images = sweep(range, retreat_, state);
    if (recording != nullptr) {
      const auto* const record = dynamic_cast<const WholeRecording*>(recording);
      check_recording(record, state.batch);
      of_images.recorded = record->targets.data();
      of_images.record_batch = record->batch;
    }
    // Each image and block contributes to an entry once or twice; together they stay within what
    // one contribution may be.
    const auto num_contributions =
        static_cast<unsigned>(2 * state.batch * retreat_.image.cluster_size);
    const auto limit = static_cast<float>(contribution_limit / std::bit_ceil(num_contributions));
    Sweeps::with_products(retreat_, [&](auto products) {
      engine_->launch(
          RetreatImages<decltype(products)>{.sweep = of_images,
                                            .tiles = retreat_.tiles,
                                            .adjoint = {adjoint.slot[0], adjoint.slot[1]},
                                            .grad_kernel = gradient_.kernel,
                                            .grad_bias = gradient_.bias,
                                            .limit = limit,
                                            .overflow = overflow.highest,
                                            .overflow_first = overflow.first});
    });
    engine_->make_progress();
  }

 private:
  ImageSweep<typename Sweeps::Image> sweep(CouplingRange range,
                                           const typename Sweeps::Layout& layout,
                                           StateView<float> state) const {
    return {
        .image = layout.image,
        .force = shape_.force,
        .range = range,
        .first_target = shape_.first_target,
        .line = {line_of(shape_, 0), line_of(shape_, 1)},
        .weights = {.forward = forward_.data(), .adjoint = adjoint_.data(), .bias = bias_.data()},
        .batch = state.batch,
        .state = {state.slot[0], state.slot[1]}};
  }

  SegmentShape shape_;
  typename Sweeps::Layout advance_, retreat_;
  std::shared_ptr<Engine> engine_;
  SegmentWeights<float> weights_;
  SegmentGradient gradient_;
  Buffer<Four> forward_, adjoint_;  ///< see BlockWeights
  Buffer<float> bias_;              ///< [num_couplings, c]
};

}  // namespace

std::optional<BlocksAnImage> blocks_an_image(const SegmentShape& shape,
                                             const ClusterLimits& limits) {
  return with_sweeps(shape.precision, [&](auto sweeps) -> std::optional<BlocksAnImage> {
    const auto layouts = lay_out<decltype(sweeps)>(shape, limits);
    if (!layouts) return {};
    return BlocksAnImage{layouts->advance.image.cluster_size, layouts->retreat.image.cluster_size};
  });
}

std::unique_ptr<Segment<float>> make_whole_segment(const SegmentShape& shape,
                                                   std::shared_ptr<Engine> engine) {
  return with_sweeps(shape.precision, [&](auto sweeps) -> std::unique_ptr<Segment<float>> {
    using Sweeps = decltype(sweeps);
    const auto layouts = lay_out<Sweeps>(shape, engine->device().cluster_limits());
    if (!layouts) return nullptr;
    return std::make_unique<WholeSegment<Sweeps>>(shape, *layouts, std::move(engine));
  });
}

}  // namespace revode::cuda
