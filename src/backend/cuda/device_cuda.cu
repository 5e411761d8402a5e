// Kernels are compiled here, and nowhere else, without contraction to fused multiply-adds: the way
// back must round as the way there did.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include <cuda_runtime.h>

#include "backend/cuda/cublas_product.hpp"
#include "backend/cuda/cuda_status.hpp"
#include "backend/cuda/cudnn_convolution.hpp"
#include "backend/cuda/device_cuda.hpp"

namespace revode::cuda {
namespace {

constexpr int threads_of_elementwise = 256;

template <typename Body>
__global__ void __launch_bounds__(threads_of_elementwise)
    elementwise_kernel(const Body body, std::int64_t size) {
  const std::int64_t stride = std::int64_t{gridDim.x} * threads_of_elementwise;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads_of_elementwise + threadIdx.x; i < size;
       i += stride)
    body(i);
}

template <typename Body>
__global__ void __launch_bounds__(Body::num_threads)
    blocks_kernel(const Body body, std::int64_t num_blocks) {
  __shared__ typename Body::Shared shared;
  for (std::int64_t block = blockIdx.x; block < num_blocks; block += gridDim.x)
    for (int phase = 0; phase < Body::num_phases; ++phase) {
      body(phase, block, static_cast<int>(threadIdx.x), shared);
      __syncthreads();
    }
}

/// A grid of clusters, each of `cluster_size` blocks beside each other.
template <typename Body>
__global__ void __launch_bounds__(most_threads_of_images)
    clusters_kernel(const Body body, int num_phases, int cluster_size) {
  extern __shared__ Four shared_memory[];
  const ClusterShared shared{shared_memory, static_cast<int>(blockIdx.x) % cluster_size};
  const std::int64_t cluster = blockIdx.x / cluster_size;
  typename Body::Registers registers;
  for (int phase = 0; phase < num_phases; ++phase) {
    body(phase, cluster, static_cast<int>(threadIdx.x), shared, registers);
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (cluster_size == 1 || !body.meets_cluster(phase)) {
      __syncthreads();
    } else {
#if __CUDA_ARCH__ >= 900
      asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#endif
    }
  }
}

template <typename Body>
concept InBlocks = requires {
  typename Body::Shared;
};
template <typename Body>
concept InClusters = requires {
  typename Body::Registers;
};

template <typename Body>
void launch_clusters(const Body& body, cudaStream_t stream) {
  if (body.num_clusters() == 0) return;
  const auto bytes = body.shared_fours() * sizeof(Four);
  const auto kernel = clusters_kernel<Body>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(body.cluster_size()), 1, 1};
  cudaLaunchConfig_t launch{};
  launch.gridDim = static_cast<unsigned>(body.num_clusters() * body.cluster_size());
  launch.blockDim = static_cast<unsigned>(body.num_threads());
  launch.dynamicSmemBytes = bytes;
  launch.stream = stream;
  launch.attrs = &cluster;
  launch.numAttrs = body.cluster_size() > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&launch, kernel, body, body.num_phases(), body.cluster_size()),
        ("kernel " + std::string(Body::name)).c_str());
}

unsigned grid_size(std::int64_t num_blocks) {
  return static_cast<unsigned>(
      std::min<std::int64_t>(num_blocks, std::numeric_limits<std::int32_t>::max()));
}

template <typename Body>
void launch_body(const Body& body, cudaStream_t stream) {
  if constexpr (InClusters<Body>) {
    launch_clusters(body, stream);
    return;
  } else if constexpr (InBlocks<Body>) {
    const std::int64_t num_blocks = body.num_blocks();
    if (num_blocks == 0) return;
    blocks_kernel<<<grid_size(num_blocks), Body::num_threads, 0, stream>>>(body, num_blocks);
  } else {
    const std::int64_t size = body.size();
    if (size == 0) return;
    const std::int64_t num_blocks = (size + threads_of_elementwise - 1) / threads_of_elementwise;
    elementwise_kernel<<<grid_size(num_blocks), threads_of_elementwise, 0, stream>>>(body, size);
  }
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) check(status, ("kernel " + std::string(Body::name)).c_str());
}

int attribute(cudaDeviceAttr which, int ordinal) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, ordinal), "cudaDeviceGetAttribute");
  return value;
}

class CudaDevice final : public Device {
 public:
  CudaDevice(int ordinal, int num_devices) : ordinal_(ordinal), num_devices_(num_devices) {
    use();
    if (attribute(cudaDevAttrMemoryPoolsSupported, ordinal) == 0)
      throw std::runtime_error("GPU " + std::to_string(ordinal) +
                               ": its driver has no memory pools (CUDA 11.2 and later have them)");
    // Memory that is given back stays with the process: else every wait would return it.
    cudaMemPool_t pool = nullptr;
    check(cudaDeviceGetDefaultMemPool(&pool, ordinal), "cudaDeviceGetDefaultMemPool");
    std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
          "cudaMemPoolSetAttribute");
  }

  ~CudaDevice() override {
    cudaSetDevice(ordinal_);
    for (cudaStream_t stream : streams_) cudaStreamSynchronize(stream);
    convolutions_.reset();
    products_.reset();
    for (cudaGraphExec_t graph : graphs_)
      if (graph != nullptr) cudaGraphExecDestroy(graph);
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    for (cudaStream_t stream : streams_) cudaStreamDestroy(stream);
  }

  std::string description() const override {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, ordinal_), "cudaGetDeviceProperties");
    const std::size_t version = cudnnGetVersion();  // 10000 major + 100 minor + patch
    return std::string(properties.name) + ", compute capability " +
           std::to_string(properties.major) + "." + std::to_string(properties.minor) + ", " +
           std::to_string(properties.totalGlobalMem >> 30) + " GiB, cuDNN " +
           std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
           std::to_string(version % 100) + ", cuBLAS " + cublas_version();
  }

  int num_devices() const override { return num_devices_; }

  /// Multiprocessors x operations of each a clock x the highest clock. In single precision two
  /// a lane (CUDA C++ Programming Guide, "Throughput of native arithmetic instructions"): 64 lanes
  /// at 8.0, 128 from 8.6 on. On tensor cores in TF32, dense, and twice that in bf16, from NVIDIA's
  /// papers on the A100 (156 TFLOP/s of 108 at 1.41 GHz), RTX 3090 (35.6 of 82 at 1.695), H100 (495
  /// of 132 at 1.83) and B200 (1.1e3 of 148, about 1.85).
  double peak_flops(Precision precision) const override {
    const int capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, ordinal_) +
                           attribute(cudaDevAttrComputeCapabilityMinor, ordinal_);
    const double on_lanes = capability <= 80 ? 128 : 256;
    const double on_tensor_cores = capability == 80    ? 1024
                                   : capability < 90   ? 256
                                   : capability < 100  ? 2048
                                   : capability <= 103 ? 4096
                                                       : 256;
    const double clock = 1e3 * attribute(cudaDevAttrClockRate, ordinal_);  // told in kHz
    return attribute(cudaDevAttrMultiProcessorCount, ordinal_) * clock *
           (precision == Precision::fp32   ? on_lanes
            : precision == Precision::tf32 ? on_tensor_cores
                                           : 2 * on_tensor_cores);
  }

  ClusterLimits cluster_limits() const override {
    // Clusters of eight are what every device that has them takes (CUDA C++ Programming Guide,
    // "Thread block clusters").
    const bool has_clusters = attribute(cudaDevAttrComputeCapabilityMajor, ordinal_) >= 9;
    return {.shared_bytes = static_cast<std::size_t>(
                attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal_)),
            .cluster_size = has_clusters ? 8 : 1,
            .num_multiprocessors = attribute(cudaDevAttrMultiProcessorCount, ordinal_)};
  }

  Stream make_stream() override {
    use();
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    streams_.push_back(stream);
    return {static_cast<int>(streams_.size()) - 1};
  }
  Event make_event() override { return make_event(cudaEventDisableTiming); }
  Event make_timed_event() override { return make_event(cudaEventDefault); }
  void record(Event event, Stream stream) override {
    use();
    check(cudaEventRecord(of(event), of(stream)), "cudaEventRecord");
  }
  void wait(Stream stream, Event event) override {
    use();
    check(cudaStreamWaitEvent(of(stream), of(event), 0), "cudaStreamWaitEvent");
  }
  bool reached(Event event) override {
    use();
    const cudaError_t status = cudaEventQuery(of(event));
    if (status == cudaErrorNotReady) {
      cudaGetLastError();  // or the next launch would be blamed for it
      return false;
    }
    check(status, "cudaEventQuery");
    return true;
  }
  void synchronize(Event event) override {
    use();
    check(cudaEventSynchronize(of(event)), "cudaEventSynchronize");
  }
  double seconds_between(Event begin, Event end) override {
    use();
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, of(begin), of(end)), "cudaEventElapsedTime");
    return 1e-3 * double{milliseconds};
  }

  void* allocate(std::size_t bytes, Stream stream) override {
    use();
    void* pointer = nullptr;
    const cudaError_t status =
        cudaMallocAsync(&pointer, std::max<std::size_t>(bytes, 1), of(stream));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    check(status, "cudaMallocAsync");
    return pointer;
  }
  void release(void* pointer, std::size_t, Stream stream) noexcept override {
    cudaSetDevice(ordinal_);
    if (cudaFreeAsync(pointer, of(stream)) != cudaSuccess) cudaGetLastError();
  }

  // Other processes can open no memory of a pool, as they do for messages within a host.
  void* allocate_lendable(std::size_t bytes) override {
    use();
    void* pointer = nullptr;
    const cudaError_t status = cudaMalloc(&pointer, std::max<std::size_t>(bytes, 1));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    check(status, "cudaMalloc");
    return pointer;
  }
  void release_lendable(void* pointer) noexcept override {
    cudaSetDevice(ordinal_);
    if (cudaFree(pointer) != cudaSuccess) cudaGetLastError();
  }
  // The device closes nothing.
  void lend(void*, std::size_t) override {}
  void take_back(void*, std::size_t) noexcept override {}

  void* allocate_host(std::size_t bytes) override {
    use();
    void* pointer = nullptr;
    const cudaError_t status = cudaMallocHost(&pointer, std::max<std::size_t>(bytes, 1));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    check(status, "cudaMallocHost");
    std::memset(pointer, 0, bytes);
    return pointer;
  }
  void release_host(void* pointer) noexcept override {
    cudaSetDevice(ordinal_);
    if (cudaFreeHost(pointer) != cudaSuccess) cudaGetLastError();
  }

  void zero(void* to, std::size_t bytes, Stream stream) override {
    use();
    check(cudaMemsetAsync(to, 0, bytes, of(stream)), "cudaMemsetAsync");
  }
  void copy(void* to, const void* from, std::size_t bytes, Stream stream) override {
    copy(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
  }
  void copy_in(void* to, const void* host, std::size_t bytes, Stream stream) override {
    copy(to, host, bytes, cudaMemcpyHostToDevice, stream);
  }
  void copy_out(void* host, const void* from, std::size_t bytes, Stream stream) override {
    copy(host, from, bytes, cudaMemcpyDeviceToHost, stream);
  }

  void launch(const Kernel& kernel, Stream stream) override {
    use();
    std::visit([&](const auto& body) { launch_body(body, of(stream)); }, kernel);
  }
  void convolve(const Convolution& convolution, Stream stream) override {
    use();
    convolutions_->run(convolution, stream, of(stream));
  }
  void convolve(const ConvolutionGradient& gradient, Stream stream) override {
    use();
    convolutions_->run(gradient, stream, of(stream));
  }
  void multiply(const Product& product, Stream stream) override {
    use();
    products_->run(product, stream, of(stream));
  }

  void begin_recording(Stream stream) override {
    use();
    check(cudaStreamBeginCapture(of(stream), cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
  }
  Graph end_recording(Stream stream) override {
    use();
    cudaGraph_t captured = nullptr;
    check(cudaStreamEndCapture(of(stream), &captured), "cudaStreamEndCapture");
    cudaGraphExec_t graph = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&graph, captured, 0);
    cudaGraphDestroy(captured);
    check(status, "cudaGraphInstantiate");
    const auto spare = std::find(graphs_.begin(), graphs_.end(), nullptr);
    const auto index = static_cast<int>(spare - graphs_.begin());
    if (spare == graphs_.end()) graphs_.push_back(nullptr);
    graphs_[static_cast<std::size_t>(index)] = graph;
    return {index};
  }
  void run(Graph graph, Stream stream) override {
    use();
    check(cudaGraphLaunch(graphs_[static_cast<std::size_t>(graph.index)], of(stream)),
          "cudaGraphLaunch");
  }
  // One that is under way is freed when it has ended.
  void release(Graph graph) noexcept override {
    cudaSetDevice(ordinal_);
    cudaGraphExec_t& released = graphs_[static_cast<std::size_t>(graph.index)];
    if (cudaGraphExecDestroy(released) != cudaSuccess) cudaGetLastError();
    released = nullptr;
  }
  int generation() const override { return convolutions_->num_moves(); }

 private:
  /// Calls go to the device that is current for the calling thread.
  void use() const { check(cudaSetDevice(ordinal_), "cudaSetDevice"); }

  static std::string cublas_version() {
    int part[3] = {0, 0, 0};
    const libraryPropertyType_t names[3] = {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
    for (int i = 0; i < 3; ++i) check(cublasGetProperty(names[i], &part[i]), "cublasGetProperty");
    return std::to_string(part[0]) + "." + std::to_string(part[1]) + "." + std::to_string(part[2]);
  }

  Event make_event(unsigned flags) {
    use();
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, flags), "cudaEventCreateWithFlags");
    events_.push_back(event);
    return {static_cast<int>(events_.size()) - 1};
  }

  cudaStream_t of(Stream stream) const { return streams_[static_cast<std::size_t>(stream.index)]; }
  cudaEvent_t of(Event event) const { return events_[static_cast<std::size_t>(event.index)]; }

  void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, Stream stream) {
    use();
    check(cudaMemcpyAsync(to, from, bytes, kind, of(stream)), "cudaMemcpyAsync");
  }

  int ordinal_;
  int num_devices_;
  std::vector<cudaStream_t> streams_;
  std::vector<cudaEvent_t> events_;
  std::vector<cudaGraphExec_t> graphs_;  // null: released
  std::unique_ptr<CublasProducts> products_ = std::make_unique<CublasProducts>();
  std::unique_ptr<CudnnConvolutions> convolutions_ = std::make_unique<CudnnConvolutions>();
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(int ordinal, int num_devices) {
  return std::make_unique<CudaDevice>(ordinal, num_devices);
}

}  // namespace revode::cuda
