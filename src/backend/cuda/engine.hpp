// What the parts of the CUDA backend share: the device, its streams, the memory there, and marks
// between calls.
//
// Kernels run on one stream; copies from and to the host run beside them on streams of their own.
// What waits for what follows from the arrays: a copy waits for the kernels that touch its array,
// kernels for copies of the arrays that they touch. Kernels are gathered until somebody waits for
// them, or there are enough, and go to their stream as one piece (replayer.hpp).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "revode/backend/memory.hpp"
#include "revode/backend/work_counts.hpp"
#include "revode/core/buffer.hpp"
#include "revode/core/memory_space.hpp"

#include "backend/cuda/device.hpp"
#include "backend/cuda/replayer.hpp"

namespace revode::cuda {

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
  kernel_gradient,
  second_kernel_gradient,
  sums,
  rounded_x,
  rounded_hidden,
  rounded_gradient,
};
inline constexpr int num_scratch_arrays = 14;

class Engine {
 public:
  explicit Engine(std::unique_ptr<Device> device);

  Device& device() { return *device_; }
  MemorySpace& space() { return space_; }
  MemorySpace& staging() { return staging_; }
  MemorySpace& lendable() { return lendable_; }

  void launch(const Kernel& kernel);
  void convolve(const Convolution& convolution);
  void convolve(const ConvolutionGradient& gradient);
  void multiply(const Product& product);
  void zero(void* to, std::size_t bytes);
  void copy(void* to, const void* from, std::size_t bytes);
  void copy_in(void* to, const void* host, std::size_t bytes);
  void copy_out(void* host, const void* from, std::size_t bytes);

  /// The stream of the kernels gets what is pending, which so ends a piece. Work on arrays that are
  /// always the same becomes pieces that come again.
  void flush();
  WorkCounts counts() const;

  Mark mark();
  bool reached(Mark mark);
  void wait(Mark mark);

  /// When the stream of the kernels came by.
  Stamp stamp();
  double seconds_between(Stamp begin, Stamp end);
  std::vector<WorkClock::HostTime> host_times(std::span<const Stamp> stamps);
  void stamp_copies() { stamps_copies_ = true; }
  std::vector<WorkClock::StampedCopy> take_copies() { return std::exchange(copies_, {}); }

  /// What is to be called now and then while the host waits; may be empty.
  void set_progress(std::function<void()> progress) { progress_ = std::move(progress); }

  /// At least `size` elements.
  template <typename T = float>
  T* scratch(Scratch which, std::size_t size) {
    Buffer<double>& array = scratch_[static_cast<int>(which)];
    const std::size_t doubles = (size * sizeof(T) + sizeof(double) - 1) / sizeof(double);
    array.ensure(doubles, Memory::workspace, space_);
    return reinterpret_cast<T*>(array.data());
  }

 private:
  enum Lane { kernels, copies_in, copies_out };
  static constexpr int num_lanes = 3;

  /// Memory of the device, given and taken back in the order of the calls.
  class Space final : public MemorySpace {
   public:
    explicit Space(Engine& engine) : engine_(engine) {}
    std::string_view name() const override { return "device"; }
    bool host_accessible() const override { return false; }
    void* allocate(std::size_t bytes) override { return engine_.allocate(bytes); }
    void release(void* pointer, std::size_t bytes) noexcept override {
      engine_.release(pointer, bytes);
    }

   private:
    Engine& engine_;
  };
  /// The same, where messages can take it.
  class Lendable final : public MemorySpace {
   public:
    explicit Lendable(Engine& engine) : engine_(engine) {}
    std::string_view name() const override { return "device, for messages"; }
    bool host_accessible() const override { return false; }
    void* allocate(std::size_t bytes) override {
      return engine_.add(engine_.device_->allocate_lendable(bytes), bytes);
    }
    void release(void* pointer, std::size_t) noexcept override {
      engine_.release_lendable(pointer);
    }

   private:
    Engine& engine_;
  };
  class Staging final : public MemorySpace {
   public:
    explicit Staging(Engine& engine) : engine_(engine) {}
    std::string_view name() const override { return "pinned host"; }
    bool host_accessible() const override { return true; }
    void* allocate(std::size_t bytes) override { return engine_.device_->allocate_host(bytes); }
    void release(void* pointer, std::size_t) noexcept override {
      engine_.device_->release_host(pointer);
    }

   private:
    Engine& engine_;
  };

  /// The last call of each lane that touched an array; 0: none.
  struct Allocation {
    std::size_t bytes = 0;
    std::array<Mark, num_lanes> last_call{};
  };
  /// Events behind a call; of the lanes that had anything to do since the one before.
  struct Recorded {
    Mark mark;
    std::array<std::optional<Event>, num_lanes> events;
  };

  void* allocate(std::size_t bytes);
  void* add(void* memory, std::size_t bytes);
  void release(void* pointer, std::size_t bytes) noexcept;
  void release_lendable(void* pointer) noexcept;
  Allocation* allocation_of(const void* pointer);
  void begin_call(Lane lane, const Accesses& accesses);
  void queue(Task task);
  void wait_for(Lane lane, Lane other, Mark call);
  Event timed_event_on(Lane lane);
  template <typename Copy>
  void stamped_copy(Lane lane, Copy&& copy);
  bool reached(const Recorded& recorded);
  void finish_first();

  std::unique_ptr<Device> device_;
  std::array<Stream, num_lanes> streams_;
  Replayer replayer_;
  std::vector<Task> pending_;  ///< for the stream of the kernels, which does not have them yet
  Space space_;
  Staging staging_;
  Lendable lendable_;
  std::map<const std::byte*, Allocation> allocations_;  // by where they begin
  Mark num_calls_ = 0;                                  // made
  std::array<Mark, num_lanes> last_call_{};             // of each lane
  /// awaited_[a][b]: lane a runs behind all calls of lane b up to this one.
  std::array<std::array<Mark, num_lanes>, num_lanes> awaited_{};
  Mark done_ = 0;                  // all calls up to this one are known to be done
  std::deque<Recorded> recorded_;  // behind done_, in order
  std::vector<Event> spare_events_;
  std::vector<Event> spare_timed_events_;
  bool stamps_copies_ = false;
  std::vector<WorkClock::StampedCopy> copies_;
  std::array<Event, num_lanes> turn_events_;  // each recorded when another lane is to wait
  std::function<void()> progress_;
  std::int64_t num_waits_ = 0;
  std::int64_t num_fetches_ = 0;
  std::array<Buffer<double>, num_scratch_arrays> scratch_;
};

}  // namespace revode::cuda
