// What the parts of the CUDA backend share: the device, the stream that its calls go to, the memory
// there, and marks between calls.
#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "revode/backend/memory.hpp"
#include "revode/core/buffer.hpp"
#include "revode/core/memory_space.hpp"

#include "backend/cuda/device.hpp"

namespace revode::cuda {

/// Memory of the device, given and taken back in the order of the stream.
class DeviceMemory final : public MemorySpace {
 public:
  DeviceMemory(Device& device, Stream stream) : device_(device), stream_(stream) {}

  std::string_view name() const override { return "device"; }
  bool host_accessible() const override { return false; }
  void* allocate(std::size_t bytes) override;
  void release(void* pointer, std::size_t bytes) noexcept override;

 private:
  Device& device_;
  Stream stream_;
};

/// Arrays that calls work in; each holds nothing from one call to the next.
enum class Scratch {
  state_0,
  state_1,
  adjoint_0,
  adjoint_1,
  hidden,
  force,
  grad_force,
  grad_hidden,
  kernel,
  kernel_gradient,
  sums,
};
inline constexpr int num_scratch_arrays = 11;

class Engine {
 public:
  explicit Engine(std::unique_ptr<Device> device);

  Device& device() { return *device_; }
  MemorySpace& space() { return space_; }

  void launch(const Kernel& kernel);
  void convolve(const Convolution& convolution);
  void convolve(const ConvolutionGradient& gradient);
  void zero(void* to, std::size_t bytes);
  void copy(void* to, const void* from, std::size_t bytes);
  void copy_in(void* to, const void* host, std::size_t bytes);
  void copy_out(void* host, const void* from, std::size_t bytes);

  Mark mark();
  bool reached(Mark mark);
  /// Calls `progress`, where there is one, again and again.
  void wait(Mark mark, const std::function<void()>& progress);

  /// At least `size` elements.
  template <typename T = float>
  T* scratch(Scratch which, std::size_t size) {
    Buffer<double>& array = scratch_[static_cast<int>(which)];
    array.ensure((size * sizeof(T) + sizeof(double) - 1) / sizeof(double), Memory::workspace,
                 space_);
    return reinterpret_cast<T*>(array.data());
  }

 private:
  struct Recorded {
    Mark mark;
    Event event;
  };

  void finish(std::size_t num_recorded);

  std::unique_ptr<Device> device_;
  Stream stream_;
  DeviceMemory space_;
  Mark num_calls_ = 0;             // made
  Mark done_ = 0;                  // known to be done
  std::deque<Recorded> recorded_;  // behind done_, in order
  std::vector<Event> spare_events_;
  std::array<Buffer<double>, num_scratch_arrays> scratch_;
};

}  // namespace revode::cuda
