// A plug-in whose GPU does nothing and is done at once: what a step takes with it is the host's
// part but for the driver (docs/gpu.md). Results mean nothing.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "backend/cuda/cuda_backend.hpp"
#include "backend/cuda/plugin.hpp"

namespace revode::cuda {
namespace {

/// Memory of the host, zeroed.
void* allocate_zeros(std::size_t bytes) {
  constexpr std::size_t alignment = 256;
  const std::size_t size = (bytes / alignment + 1) * alignment;
  void* const memory = std::aligned_alloc(alignment, size);
  if (memory == nullptr) throw std::bad_alloc();
  return std::memset(memory, 0, size);
}

class IdleDevice final : public Device {
 public:
  std::string description() const override { return "a device that does nothing"; }
  int num_devices() const override { return 1; }
  double peak_flops(Precision) const override { return 1e12; }
  /// Those of an H100.
  ClusterLimits cluster_limits() const override {
    return {.shared_bytes = 232448, .cluster_size = 8, .num_multiprocessors = 132};
  }

  Stream make_stream() override { return {num_made_++}; }
  Event make_event() override { return {num_made_++}; }
  Event make_timed_event() override { return {num_made_++}; }
  void record(Event, Stream) override {}
  void wait(Stream, Event) override {}
  bool reached(Event) override { return true; }
  void synchronize(Event) override {}
  double seconds_between(Event, Event) override { return 1e-6; }

  void* allocate(std::size_t bytes, Stream) override { return allocate_zeros(bytes); }
  void release(void* pointer, std::size_t, Stream) noexcept override { std::free(pointer); }
  void* allocate_lendable(std::size_t bytes) override { return allocate_zeros(bytes); }
  void release_lendable(void* pointer) noexcept override { std::free(pointer); }
  void lend(void*, std::size_t) override {}
  void take_back(void*, std::size_t) noexcept override {}
  void* allocate_host(std::size_t bytes) override { return allocate_zeros(bytes); }
  void release_host(void* pointer) noexcept override { std::free(pointer); }

  void zero(void*, std::size_t, Stream) override {}
  void copy(void*, const void*, std::size_t, Stream) override {}
  void copy_in(void*, const void*, std::size_t, Stream) override {}
  void copy_out(void*, const void*, std::size_t, Stream) override {}
  void launch(const Kernel&, Stream) override {}
  void convolve(const Convolution&, Stream) override {}
  void convolve(const ConvolutionGradient&, Stream) override {}
  void multiply(const Product&, Stream) override {}

  void begin_recording(Stream) override {}
  Graph end_recording(Stream) override { return {num_made_++}; }
  void run(Graph, Stream) override {}
  void release(Graph) noexcept override {}
  int generation() const override { return 0; }

 private:
  int num_made_ = 0;
};

GpuSurvey survey() { return {.status = GpuStatus::usable, .num_usable = 1}; }

std::unique_ptr<Backend<float>> make_backend(int) {
  return make_cuda_backend(std::make_unique<IdleDevice>());
}

}  // namespace
}  // namespace revode::cuda

extern "C" __attribute__((visibility("default"))) const revode::cuda::Plugin revode_cuda_plugin;
const revode::cuda::Plugin revode_cuda_plugin = {REVODE_PLUGIN_VERSION, revode::count_memory_in,
                                                 revode::cuda::survey, revode::cuda::make_backend};
