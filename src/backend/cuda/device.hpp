// All that the CUDA backend asks of a device, some two dozen calls, in the terms of CUDA: work is
// queued on streams and runs some time later; streams run side by side but where events order them.
// device_cuda.cu is the real one, host_device.hpp the same in host memory, which checks the order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "backend/cuda/kernels.hpp"

namespace revode::cuda {

struct Stream {
  int index = 0;
};
struct Event {
  int index = 0;
};
/// Work of one stream that was recorded once, to be run again as one piece.
struct Graph {
  int index = 0;
};

/// y <- K * x, zero padding 1. All in NHWC: x [batch, height, width, in_channels], y the same with
/// out_channels, kernel [out_channels, 3, 3, in_channels]. y is of floats, x and kernel of what
/// products take (kernels/operands.hpp).
struct Convolution {
  int batch = 0;
  int height = 0;
  int width = 0;
  int in_channels = 0;
  int out_channels = 0;
  const void* x = nullptr;
  const void* kernel = nullptr;
  float* y = nullptr;
  Precision precision = Precision::fp32;  ///< that x and kernel are stored as

  bool operator==(const Convolution&) const = default;
  Accesses accesses() const {
    const std::size_t num_pixels = std::size_t{1} * batch * height * width;
    const std::size_t bytes = operand_bytes(precision);
    return Accesses()
        .reads(static_cast<const std::byte*>(x), num_pixels * in_channels * bytes)
        .reads(static_cast<const std::byte*>(kernel), 9 * bytes * in_channels * out_channels)
        .writes(y, num_pixels * out_channels);
  }
};

/// grad_kernel <- the gradient of the kernel of such a convolution, summed over batch and plane in
/// an order that depends on the shape alone. It is of floats, x and grad_y of what products take.
struct ConvolutionGradient {
  int batch = 0;
  int height = 0;
  int width = 0;
  int in_channels = 0;
  int out_channels = 0;
  const void* x = nullptr;
  const void* grad_y = nullptr;
  float* grad_kernel = nullptr;
  Precision precision = Precision::fp32;  ///< that x and grad_y are stored as

  bool operator==(const ConvolutionGradient&) const = default;
  Accesses accesses() const {
    const std::size_t num_pixels = std::size_t{1} * batch * height * width;
    const std::size_t bytes = operand_bytes(precision);
    return Accesses()
        .reads(static_cast<const std::byte*>(x), num_pixels * in_channels * bytes)
        .reads(static_cast<const std::byte*>(grad_y), num_pixels * out_channels * bytes)
        .writes(grad_kernel, std::size_t{9} * in_channels * out_channels);
  }
};

/// c [rows, columns] <- factor a b (or, with `adds`, += ), in single precision and in an order that
/// depends on the shape alone. All row-major; a is stored [rows, inner], or transposed [inner,
/// rows], b [inner, columns], or transposed [columns, inner].
struct Product {
  int rows = 0;
  int columns = 0;
  int inner = 0;
  const float* a = nullptr;
  bool a_is_transposed = false;
  const float* b = nullptr;
  bool b_is_transposed = false;
  float* c = nullptr;
  float factor = 1;
  bool adds = false;

  bool operator==(const Product&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(a, std::size_t{1} * rows * inner)
        .reads(b, std::size_t{1} * inner * columns)
        .writes(c, std::size_t{1} * rows * columns);
  }
};

/// What a kernel in clusters may have.
struct ClusterLimits {
  std::size_t shared_bytes = 0;  ///< of a block
  int cluster_size = 1;
  int num_multiprocessors = 1;  ///< which have a block each at a time
};

/// What is queued on a stream returns before its work is done. Errors of a device
/// are thrown as std::runtime_error, by the call that learns of them.
class Device {
 public:
  virtual ~Device() = default;
  /// One phrase: which device this is.
  virtual std::string description() const = 0;
  /// Such devices of this host, this one among them.
  virtual int num_devices() const = 0;
  /// Multiply-adds counted as two: operations a second, from the device's data.
  virtual double peak_flops(Precision precision) const = 0;
  virtual ClusterLimits cluster_limits() const = 0;

  virtual Stream make_stream() = 0;
  virtual Event make_event() = 0;
  /// One that also keeps when its last record was reached.
  virtual Event make_timed_event() = 0;
  /// The event stands for all that `stream` has been given so far.
  virtual void record(Event event, Stream stream) = 0;
  /// What `stream` is given from now on runs behind the last record of the event before this call;
  /// where there was none, nothing is waited for.
  virtual void wait(Stream stream, Event event) = 0;
  /// Whether the last record of the event is done; true where there was none.
  virtual bool reached(Event event) = 0;
  /// The host waits for it.
  virtual void synchronize(Event event) = 0;
  /// Of timed events that are reached.
  virtual double seconds_between(Event begin, Event end) = 0;

  /// Memory of the device, from this place in the stream on; holds anything. Throws std::bad_alloc.
  virtual void* allocate(std::size_t bytes, Stream stream) = 0;
  /// Gives it back behind all that the stream has been given.
  virtual void release(void* pointer, std::size_t bytes, Stream stream) noexcept = 0;

  /// Memory of the device that a library of messages can use, from now on. Throws std::bad_alloc.
  virtual void* allocate_lendable(std::size_t bytes) = 0;
  /// What uses it must be done.
  virtual void release_lendable(void* pointer) noexcept = 0;
  /// From now on a message reads and writes these bytes, and nothing that is queued may touch their
  /// array; what was queued and does is known to the host to be done.
  virtual void lend(void* memory, std::size_t bytes) = 0;
  virtual void take_back(void* memory, std::size_t bytes) noexcept = 0;

  /// Memory of the host that the device copies to and from without help, zeroed.
  virtual void* allocate_host(std::size_t bytes) = 0;
  virtual void release_host(void* pointer) noexcept = 0;

  virtual void zero(void* to, std::size_t bytes, Stream stream) = 0;
  virtual void copy(void* to, const void* from, std::size_t bytes, Stream stream) = 0;
  virtual void copy_in(void* to, const void* host, std::size_t bytes, Stream stream) = 0;
  virtual void copy_out(void* host, const void* from, std::size_t bytes, Stream stream) = 0;

  virtual void launch(const Kernel& kernel, Stream stream) = 0;
  virtual void convolve(const Convolution& convolution, Stream stream) = 0;
  virtual void convolve(const ConvolutionGradient& gradient, Stream stream) = 0;
  virtual void multiply(const Product& product, Stream stream) = 0;

  /// What the stream is given from now on is recorded instead of run: launches, convolutions,
  /// products, zero and copy, and nothing else. Each must have been made before with the same
  /// shapes, so that whatever it needs is there.
  virtual void begin_recording(Stream stream) = 0;
  virtual Graph end_recording(Stream stream) = 0;
  virtual void run(Graph graph, Stream stream) = 0;
  /// Runs of it that are under way end as they would.
  virtual void release(Graph graph) noexcept = 0;
  /// Rises when memory of the device's own moves: graphs that were recorded before are void.
  virtual int generation() const = 0;
};

}  // namespace revode::cuda
