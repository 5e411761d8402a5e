// A few couplings of one shape through a backend, forward and back: what the kernels reach by
// themselves, by force, channels, size and number of threads.
//
//   segment_benchmark --benchmark_filter=retreat/symmetric/16x32x32 --benchmark_repetitions=9
//
// GFLOP/s count direct convolutions (2 forward and 6 back a symmetric coupling, 1 and 3 an
// antisymmetric one); of_peak is their share of the multiply-adds that this machine did just
// before.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include "revode/backend/backend.hpp"
#include "revode/core/buffer.hpp"
#include "revode/core/random.hpp"

namespace {

using namespace revode;

constexpr int num_couplings = 6;
constexpr int batch = 32;

enum class Direction { forward, back };

SegmentShape shape_of(Force force, int channels, int height, int width) {
  return {.force = force,
          .num_couplings = num_couplings,
          .channels = channels,
          .height = height,
          .width = width,
          .first_target = 0,
          .gamma = 1,
          .beta = 0,
          .scale = {0.1, -0.1},
          .grid_bits = 16};
}

/// Normal numbers of standard deviation `scale`.
Buffer<float> draw(std::size_t size, double scale, std::uint64_t index) {
  Buffer<float> values(size, Memory::workspace);
  RandomStream random(1, Purpose::check, index);
  for (float& value : values) value = static_cast<float>(scale * random.normal());
  return values;
}

/// A segment with weights, a state and an adjoint.
struct Bench {
  Bench(const SegmentShape& shape_in, int num_threads)
      : shape(shape_in),
        backend(make_cpu_backend(num_threads)),
        segment(backend->make_segment(shape)),
        start(draw(2 * batch * shape.image_size(), 1.0, 0)),
        state(start.size(), Memory::workspace),
        adjoint(start.size(), Memory::workspace),
        grad_kernel(num_couplings * shape.kernel_size(), Memory::gradients),
        grad_bias(std::size_t{num_couplings} * shape.channels, Memory::gradients) {
    const Buffer<float> kernel = draw(grad_kernel.size(), std::sqrt(2.0 / (9 * shape.channels)), 1);
    const Buffer<float> bias(grad_bias.size(), Memory::workspace);
    segment->bind({kernel.data(), bias.data()});
    segment->bind_gradient({grad_kernel.data(), grad_bias.data()});
    segment->load_weights();
  }

  StateView<float> view(Buffer<float>& values) const {
    return {{values.data(), values.data() + batch * shape.image_size()}, batch};
  }

  /// Back to the values of the beginning, so that no repetition drifts away.
  void rewind() {
    std::copy(start.begin(), start.end(), state.begin());
    std::copy(start.begin(), start.end(), adjoint.begin());
  }

  void sweep(Direction direction) {
    if (direction == Direction::forward) {
      segment->advance({0, num_couplings}, view(state), &counts, nullptr);
    } else {
      int overflow = 0;
      segment->retreat({0, num_couplings}, view(state), view(adjoint), nullptr, {&overflow});
    }
  }

  SegmentShape shape;
  std::unique_ptr<Backend<float>> backend;
  std::unique_ptr<Segment<float>> segment;
  Buffer<float> start, state, adjoint;
  Buffer<ExactSum> grad_kernel, grad_bias;
  StateNotes counts;
};

double flops_of(const SegmentShape& shape, Direction direction) {
  const int kernels = shape.force == Force::symmetric ? 2 : 1;
  const int convolutions = kernels * (direction == Direction::forward ? 1 : 3);
  return 2.0 * static_cast<double>(shape.kernel_size()) * static_cast<double>(shape.plane_size()) *
         convolutions * num_couplings * batch;
}

void run_segment(benchmark::State& run, const SegmentShape& shape, Direction direction,
                 int num_threads) {
  Bench bench(shape, num_threads);
  const double peak = bench.backend->measure_peak_flops();
  bench.rewind();
  bench.sweep(direction);  // takes the scratch
  double seconds = 0;
  for (auto _ : run) {
    bench.rewind();
    const auto begin = std::chrono::steady_clock::now();
    bench.sweep(direction);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    run.SetIterationTime(elapsed.count());
    seconds += elapsed.count();
  }
  const double rate = flops_of(shape, direction) * static_cast<double>(run.iterations()) / seconds;
  run.counters["GFLOP/s"] = rate / 1e9;
  run.counters["of_peak"] = rate / peak;
  run.SetLabel(bench.segment->description());
}

void run_peak(benchmark::State& run, int num_threads) {
  const std::unique_ptr<Backend<float>> backend = make_cpu_backend(num_threads);
  double sum = 0;
  for (auto _ : run) sum += backend->measure_peak_flops();
  run.counters["GFLOP/s"] = sum / static_cast<double>(run.iterations()) / 1e9;
}

void register_all() {
  struct Size {
    int channels, height, width;
  };
  // The stages of hamiltonian-74 and -218 (half the width each), of leapfrog and midpoint, and
  // shapes that fill neither vectors nor tiles.
  constexpr Size sizes[] = {{16, 32, 32}, {32, 16, 16}, {56, 8, 8},   {64, 8, 8},   {32, 32, 32},
                            {64, 16, 16}, {112, 8, 8},  {16, 96, 96}, {20, 12, 12}, {8, 4, 4}};
  const std::pair<Force, const char*> forces[] = {{Force::symmetric, "symmetric"},
                                                  {Force::antisymmetric, "antisymmetric"}};
  const std::pair<Direction, const char*> directions[] = {{Direction::forward, "advance"},
                                                          {Direction::back, "retreat"}};
  for (const int threads : {1, 2}) {
    const std::string suffix = "/threads:" + std::to_string(threads);
    benchmark::RegisterBenchmark(("multiply_adds" + suffix).c_str(),
                                 [threads](benchmark::State& run) { run_peak(run, threads); })
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
    for (const auto& [direction, direction_name] : directions)
      for (const auto& [force, force_name] : forces)
        for (const Size& size : sizes) {
          const SegmentShape shape = shape_of(force, size.channels, size.height, size.width);
          const std::string name =
              std::string(direction_name) + "/" + force_name + "/" + std::to_string(size.channels) +
              "x" + std::to_string(size.height) + "x" + std::to_string(size.width) + suffix;
          benchmark::RegisterBenchmark(name.c_str(),
                                       [shape, way = direction, threads](benchmark::State& run) {
                                         run_segment(run, shape, way, threads);
                                       })
              ->Unit(benchmark::kMillisecond)
              ->UseManualTime();
        }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
