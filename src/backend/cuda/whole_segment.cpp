#include "backend/cuda/whole_segment.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "revode/core/buffer.hpp"
#include "revode/core/error.hpp"

#include "backend/cuda/coupling_lines.hpp"

namespace revode::cuda {
namespace {

/// Each call takes the states into shared memory and back, which is worth a small part of a
/// coupling.
constexpr int worthwhile_couplings = 8;

constexpr int warp_size = 32;

int round_up(int number, int multiple) { return (number + multiple - 1) / multiple * multiple; }

/// By multiply-adds in single precision.
struct FusedSweeps {
  using Image = ImageBlocks;
  struct Layout {
    Image image;
    int channels_a_thread = 0;  ///< 4 or 8
  };

  /// In a cluster of this size, as many channels a thread as leave enough threads; back with the
  /// rounds that make a coupling's phases fewest, and the threads that gradients want.
  static std::optional<Layout> lay_out(const SegmentShape& shape, int cluster_size,
                                       std::size_t most_fours, bool is_advance) {
    if (is_advance)
      return lay_out(shape, cluster_size, most_fours, 1, [&](const Image& image) {
        return AdvanceImages<FusedProducts<4>>::shared_fours(image, shape.force);
      });
    std::optional<Layout> best;
    int fewest = 0;
    for (const int rounds : {1, 2, 4}) {
      const std::optional<Layout> found = lay_out(
          shape, cluster_size, most_fours, rounds,
          [](const Image& image) { return RetreatImages<FusedProducts<4>>::shared_fours(image); });
      if (!found) continue;
      const int phases = 4 * found->image.num_steps + 2 * GradientTiles(found->image).num_phases();
      if (best && phases >= fewest) continue;
      best = found;
      fewest = phases;
    }
    if (best)
      best->image.num_threads = std::max(
          best->image.num_threads, round_up(GradientTiles(best->image).num_tiles(), warp_size));
    return best;
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

 private:
  /// With fewer threads a multiprocessor has too little to do while some wait.
  static constexpr int wanted_threads = 256;

  template <typename SharedFours>
  static std::optional<Layout> lay_out(const SegmentShape& shape, int cluster_size,
                                       std::size_t most_fours, int gradient_rounds,
                                       SharedFours&& shared_fours) {
    std::optional<Layout> found;
    for (const int channels_a_thread : {4, 8}) {
      const std::optional<Image> image =
          cut_image(shape, cluster_size, channels_a_thread, gradient_rounds);
      if (!image || shared_fours(*image) > most_fours) continue;
      if (!found || image->num_threads >= wanted_threads) found = Layout{*image, channels_a_thread};
    }
    if (found) found->image = with_longest_steps(found->image, most_fours, shared_fours);
    return found;
  }

  static std::optional<Image> cut_image(const SegmentShape& shape, int cluster_size,
                                        int channels_a_thread, int gradient_rounds) {
    const int num_chunks = round_up(shape.channels, 4) / 4;
    const int band = shape.height / cluster_size;
    const int tile_rows = round_up(band, rows_a_thread) / rows_a_thread;
    const std::int64_t num_threads =
        std::int64_t{1} * shape.width * tile_rows * num_chunks * 4 / channels_a_thread;
    if (shape.height % cluster_size != 0 || (cluster_size > 1 && band % rows_a_thread != 0) ||
        4 * num_chunks % channels_a_thread != 0 || num_threads > most_threads_of_images)
      return {};
    return Image{.channels = shape.channels,
                 .height = shape.height,
                 .width = Divisor(shape.width),
                 .cluster_size = Divisor(cluster_size),
                 .tile_rows = Divisor(tile_rows),
                 .num_chunks = Divisor(num_chunks),
                 .num_steps = Divisor(num_chunks),
                 .gradient_rounds = gradient_rounds,
                 .num_threads = round_up(static_cast<int>(num_threads), warp_size)};
  }

  /// With the weights of as many chunks a step as there is room for.
  template <typename SharedFours>
  static Image with_longest_steps(const Image& image, std::size_t most_fours,
                                  SharedFours&& shared_fours) {
    for (int num_steps = 1; num_steps < image.num_chunks; ++num_steps) {
      Image longer = image;
      longer.chunks_a_step = (image.num_chunks + num_steps - 1) / num_steps;
      longer.num_steps = Divisor(num_steps);
      if (shared_fours(longer) <= most_fours) return longer;
    }
    return image;
  }
};

/// On tensor cores.
template <Precision precision>
struct TensorSweeps {
  using Image = TensorBlocks<precision>;
  struct Layout {
    Image image;
  };

  /// In a cluster of this size, a warp a tile; back with as many tiles of gradients at once as find
  /// room.
  static std::optional<Layout> lay_out(const SegmentShape& shape, int cluster_size,
                                       std::size_t most_fours, bool is_advance) {
    if (shape.width % run_of_pixels != 0 || shape.height % cluster_size != 0) return {};
    constexpr int most_warps = most_threads_of_images / lanes_a_warp;
    const int num_blocks = round_up(shape.channels, channels_a_block) / channels_a_block;
    Image image{.channels = shape.channels,
                .height = shape.height,
                .width = shape.width,
                .cluster_size = Divisor(cluster_size),
                .num_chunks = Divisor(4 * num_blocks),
                .num_steps = Divisor(num_blocks)};
    image.tile_columns = Divisor(image.is_wide() ? image.num_runs() / 2 : image.num_runs());
    image.tile_rows = Divisor(round_up(image.tiled_rows(), rows_a_tile) / rows_a_tile);
    const int num_warps = image.tile_columns * image.tile_rows * num_blocks;
    if (num_warps > most_warps) return {};
    image.num_threads = lanes_a_warp * (is_advance ? num_warps : most_warps);
    if (is_advance) {
      if (AdvanceImages<Products>::shared_fours(image, shape.force) > most_fours) return {};
      return Layout{image};
    }
    for (image.gradient_warps = most_warps; image.gradient_warps >= 3; --image.gradient_warps)
      if (RetreatImages<Products>::shared_fours(image) <= most_fours) return Layout{image};
    return {};
  }

  template <typename Launch>
  static void with_products(const Layout&, Launch&& launch) {
    launch(Products());
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

 private:
  using Products = TensorProducts<precision>;
};

/// How images lie in clusters, there or back: each size of cluster that they fit into, ascending.
template <typename Sweeps>
std::vector<typename Sweeps::Layout> lay_out(const SegmentShape& shape, const ClusterLimits& limits,
                                             bool is_advance) {
  std::vector<typename Sweeps::Layout> layouts;
  for (int cluster_size = 1; cluster_size <= limits.cluster_size; cluster_size *= 2)
    if (const auto found =
            Sweeps::lay_out(shape, cluster_size, limits.shared_bytes / sizeof(Four), is_advance))
      layouts.push_back(*found);
  return layouts;
}

/// The smallest one, unless larger clusters save a quarter of the time or more: their blocks wait
/// for each other. The time is that of so many rounds of all multiprocessors, each as long as the
/// rows of a block.
template <typename Layout>
const Layout& choose(const std::vector<Layout>& layouts, int batch, int num_multiprocessors) {
  const auto time = [&](const Layout& layout) {
    const std::int64_t num_blocks = std::int64_t{batch} * layout.image.cluster_size;
    return (num_blocks + num_multiprocessors - 1) / num_multiprocessors *
           layout.image.padded_band();
  };
  const Layout* chosen = &layouts.front();
  for (const Layout& layout : layouts)
    if (4 * time(layout) <= 3 * time(*chosen)) chosen = &layout;
  return *chosen;
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
  using Layout = typename Sweeps::Layout;

  /// Layouts as lay_out() gives them, of which there are some.
  WholeSegment(const SegmentShape& shape, std::vector<Layout> advance, std::vector<Layout> retreat,
               int num_multiprocessors, std::shared_ptr<Engine> engine)
      : shape_(shape),
        advance_(std::move(advance)),
        retreat_(std::move(retreat)),
        num_multiprocessors_(num_multiprocessors),
        engine_(std::move(engine)) {
    MemorySpace& space = engine_->space();
    const std::size_t couplings = shape.num_couplings;
    forward_ = Buffer<Four>(couplings * image().coupling_fours(), Memory::packed_weights, space);
    if (shape.force == Force::symmetric)
      adjoint_ = Buffer<Four>(forward_.size(), Memory::packed_weights, space);
    bias_ = Buffer<float>(couplings * shape.channels, Memory::packed_weights, space);
  }

  const SegmentShape& shape() const override { return shape_; }
  std::string description() const override {
    return fmt::format("all couplings at once, from {} / {} blocks an image on",
                       int{advance_.front().image.cluster_size},
                       int{retreat_.front().image.cluster_size});
  }
  void bind(const SegmentWeights<float>& weights) override { weights_ = weights; }
  void bind_gradient(const SegmentGradient& gradient) override { gradient_ = gradient; }
  int couplings_a_chunk() const override { return worthwhile_couplings; }

  void load_weights() override {
    if (shape_.num_couplings == 0) return;
    engine_->launch(
        Sweeps::pack(shape_, image(), weights_.kernel, forward_.data(), adjoint_.data()));
    engine_->copy(bias_.data(), weights_.bias, bias_.bytes());
  }

  std::unique_ptr<Recording> make_recording(int batch) override {
    return std::make_unique<WholeRecording>(recording_bytes(batch) / sizeof(Four), batch,
                                            engine_->space());
  }
  std::size_t recording_bytes(int batch) const override {
    return (std::size_t{1} + shape_.num_couplings) * batch * image().plane_size() *
           image().num_chunks * sizeof(Four);
  }

  void advance(CouplingRange range, StateView<float> state, StateNotes* notes,
               Recording* recording) override {
    if (range.first >= range.last || state.batch == 0) return;
    const Layout& layout = choose(advance_, state.batch, num_multiprocessors_);
    auto of_images = sweep(range, layout, state);
    if (recording != nullptr) {
      auto* const record = dynamic_cast<WholeRecording*>(recording);
      check_recording(record, state.batch);
      of_images.record = record->targets.data();
      of_images.record_batch = record->batch;
    }
    Sweeps::with_products(layout, [&](auto products) {
      engine_->launch(AdvanceImages<decltype(products)>{of_images, notes});
    });
  }

  void retreat(CouplingRange range, StateView<float> state, StateView<float> adjoint,
               const Recording* recording, OverflowNote overflow) override {
    if (range.first >= range.last || state.batch == 0) return;
    const Layout& layout = choose(retreat_, state.batch, num_multiprocessors_);
    auto of_images = sweep(range, layout, state);
    if (recording != nullptr) {
      const auto* const record = dynamic_cast<const WholeRecording*>(recording);
      check_recording(record, state.batch);
      of_images.recorded = record->targets.data();
      of_images.record_batch = record->batch;
    }
    // Each image and block contributes to an entry once or twice; together they stay within what
    // one contribution may be.
    const auto num_contributions =
        static_cast<unsigned>(2 * state.batch * layout.image.cluster_size);
    const auto limit = static_cast<float>(contribution_limit / std::bit_ceil(num_contributions));
    Sweeps::with_products(layout, [&](auto products) {
      RetreatImages<decltype(products)> body{
          .sweep = of_images,
          .tiles = typename decltype(products)::GradientTiles(layout.image),
          .adjoint = {adjoint.slot[0], adjoint.slot[1]},
          .grad_kernel = gradient_.kernel,
          .grad_bias = gradient_.bias,
          .limit = limit,
          .overflow = overflow.highest,
          .overflow_first = overflow.first};
      body.by_phases = Divisor(body.phases_a_coupling());
      engine_->launch(body);
    });
  }

 private:
  /// What all layouts have in common.
  const typename Sweeps::Image& image() const { return advance_.front().image; }

  ImageSweep<typename Sweeps::Image> sweep(CouplingRange range, const Layout& layout,
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
  std::vector<Layout> advance_, retreat_;
  int num_multiprocessors_;
  std::shared_ptr<Engine> engine_;
  SegmentWeights<float> weights_;
  SegmentGradient gradient_;
  Buffer<Four> forward_, adjoint_;  ///< see BlockWeights
  Buffer<float> bias_;              ///< [num_couplings, c]
};

}  // namespace

std::optional<BlocksAnImage> blocks_an_image(const SegmentShape& shape, int batch,
                                             const ClusterLimits& limits) {
  return with_sweeps(shape.precision, [&](auto sweeps) -> std::optional<BlocksAnImage> {
    const auto advance = lay_out<decltype(sweeps)>(shape, limits, true);
    const auto retreat = lay_out<decltype(sweeps)>(shape, limits, false);
    if (advance.empty() || retreat.empty()) return {};
    const auto blocks = [&](const auto& layouts) {
      return choose(layouts, batch, limits.num_multiprocessors).image.cluster_size;
    };
    return BlocksAnImage{blocks(advance), blocks(retreat)};
  });
}

std::unique_ptr<Segment<float>> make_whole_segment(const SegmentShape& shape,
                                                   std::shared_ptr<Engine> engine) {
  return with_sweeps(shape.precision, [&](auto sweeps) -> std::unique_ptr<Segment<float>> {
    using Sweeps = decltype(sweeps);
    const ClusterLimits limits = engine->device().cluster_limits();
    auto advance = lay_out<Sweeps>(shape, limits, true);
    auto retreat = lay_out<Sweeps>(shape, limits, false);
    if (advance.empty() || retreat.empty()) return nullptr;
    return std::make_unique<WholeSegment<Sweeps>>(shape, std::move(advance), std::move(retreat),
                                                  limits.num_multiprocessors, std::move(engine));
  });
}

}  // namespace revode::cuda
