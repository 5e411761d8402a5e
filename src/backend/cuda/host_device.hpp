// A device in host memory, for tests of the CUDA backend on any machine. Streams are queues whose
// work runs some time later, in an order that CUDA would allow: as early or as late as possible, or
// at random by a seed. Whatever order runs, each operation's accesses are held against all others:
// two that touch the same bytes, one of them writing, must be ordered by streams, events and waits
// of the host (vector clocks). Memory lies apart: closed to the host, open to an operation (to the
// page) where it said that it reads or writes, poisoned when fresh, gone when given back. What is
// lent to a message is open to the host for so long.
//
// Faults are thrown as std::logic_error by the call that shows them, naming both operations.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/device.hpp"

namespace revode::cuda {

inline const std::byte* end_of(const AccessedBytes& accessed) {
  return static_cast<const std::byte*>(accessed.begin) + accessed.bytes;
}

/// When work runs.
enum class RunOrder {
  eager,   ///< as soon as what it waits for is done
  lazy,    ///< when the host waits for it
  random,  ///< now and then, by a seed
};

class HostDevice final : public Device {
 public:
  /// most_polls: an event is done when reached() has been asked so often, if not before: a device
  /// gets on while it is asked.
  explicit HostDevice(RunOrder order, std::uint32_t seed = 0, int most_polls = 3);
  void set_description(std::string description) { description_ = std::move(description); }
  void set_num_devices(int num_devices) { num_devices_ = num_devices; }
  /// None, as long as nothing else is said.
  void set_cluster_limits(const ClusterLimits& limits) { cluster_limits_ = limits; }
  ~HostDevice() override;
  HostDevice(const HostDevice&) = delete;
  HostDevice& operator=(const HostDevice&) = delete;

  std::string description() const override { return description_; }
  int num_devices() const override { return num_devices_; }
  double peak_flops(Precision) const override { return 1e9; }
  ClusterLimits cluster_limits() const override { return cluster_limits_; }

  Stream make_stream() override;
  Event make_event() override;
  Event make_timed_event() override;
  void record(Event event, Stream stream) override;
  void wait(Stream stream, Event event) override;
  bool reached(Event event) override;
  void synchronize(Event event) override;
  double seconds_between(Event begin, Event end) override;

  void* allocate(std::size_t bytes, Stream stream) override;
  void release(void* pointer, std::size_t bytes, Stream stream) noexcept override;

  void* allocate_lendable(std::size_t bytes) override;
  void release_lendable(void* pointer) noexcept override;
  void lend(void* memory, std::size_t bytes) override;
  void take_back(void* memory, std::size_t bytes) noexcept override;

  void* allocate_host(std::size_t bytes) override;
  void release_host(void* pointer) noexcept override;

  void zero(void* to, std::size_t bytes, Stream stream) override;
  void copy(void* to, const void* from, std::size_t bytes, Stream stream) override;
  void copy_in(void* to, const void* host, std::size_t bytes, Stream stream) override;
  void copy_out(void* host, const void* from, std::size_t bytes, Stream stream) override;

  void launch(const Kernel& kernel, Stream stream) override;
  void convolve(const Convolution& convolution, Stream stream) override;
  void convolve(const ConvolutionGradient& gradient, Stream stream) override;
  void multiply(const Product& product, Stream stream) override;

  void begin_recording(Stream stream) override;
  Graph end_recording(Stream stream) override;
  void run(Graph graph, Stream stream) override;
  void release(Graph graph) noexcept override;
  int generation() const override { return num_moves_; }

 private:
  /// How far each stream has come; of an operation: which others are known to be in front of it.
  using Clock = std::vector<std::int64_t>;

  struct Operation {
    std::string name;
    std::int64_t number = 0;  // within its stream, from 1 on
    std::vector<AccessedBytes> accesses;
    std::function<void()> run;
    std::vector<std::pair<int, std::int64_t>> behind;  // stream and number
  };
  /// Of a graph.
  struct Recorded {
    std::string name;
    Accesses accesses;
    std::function<void()> run;
  };
  struct StreamState {
    Clock clock;
    std::int64_t num_queued = 0, num_done = 0;
    std::deque<Operation> queue;
    std::vector<std::pair<int, std::int64_t>> waits;  // of the next operation
    bool is_recording = false;
    std::vector<Recorded> recorded;
    std::byte* workspace = nullptr;  // that a library of convolutions would use
    std::size_t workspace_bytes = 0;
  };
  struct EventState {
    bool is_recorded = false;
    int stream = 0;
    std::int64_t number = 0;
    Clock clock;
    int num_polls = 0;
    bool is_timed = false;
    std::chrono::steady_clock::time_point reached = {};
  };
  /// Of an operation that was queued, as long as a later one may clash with it.
  struct Touched {
    const std::byte *begin, *end;
    Access access;
    int stream;
    std::int64_t number;
    std::string name;
  };
  struct Allocation {
    std::size_t bytes;
    bool is_live;
    bool is_lendable = false;
    int num_loans = 0;
  };

  bool owns(const void* pointer) const;
  void throw_fault();
  void refuse_recording(Stream stream, const char* call) const;
  Accesses use_workspace(std::size_t bytes, Stream stream);
  void enqueue_copy(const char* name, void* to, const void* from, std::size_t bytes, Stream stream);
  void enqueue(Stream stream, std::string name, Accesses accesses, std::function<void()> run);
  void check(const AccessedBytes& accessed, const std::string& name) const;
  void note(const AccessedBytes& accessed, int stream, const Operation& operation);
  void learn(Clock& clock, const Clock& more) const;
  bool can_run(const StreamState& stream) const;
  void run_next(StreamState& stream);
  void run_to(int stream, std::int64_t number);
  void run_some();
  void protect(const Operation& operation, bool is_open);
  void protect(const AccessedBytes& accessed, int protection);
  void check_guards(const Operation& operation) const;
  bool is_known_to_be_done(const Touched& touched) const;

  std::string description_ = "a device in host memory";
  int num_devices_ = 1;
  ClusterLimits cluster_limits_;
  RunOrder order_;
  int most_polls_;
  std::mt19937 random_;
  std::byte* base_;
  std::size_t used_ = 0;
  std::map<const std::byte*, Allocation> allocations_;  // by where they begin
  std::deque<StreamState> streams_;
  std::vector<EventState> events_;
  std::vector<std::vector<Recorded>> graphs_;
  int num_moves_ = 0;
  Clock host_clock_;
  std::vector<Touched> touched_;
  std::string fault_;  // of release(), which cannot throw
};

}  // namespace revode::cuda
