#include "backend/cuda/cudnn_convolution.hpp"

#include <cstddef>
#include <map>
#include <tuple>
#include <type_traits>
#include <vector>

#include <cudnn.h>

#include "revode/core/buffer.hpp"

#include "backend/cuda/cuda_status.hpp"
#include "backend/cuda/stream_memory.hpp"

namespace revode::cuda {
namespace {

// Larger ones are not worth their memory: such algorithms gain little at 3 x 3.
constexpr std::size_t most_workspace_bytes = std::size_t{256} << 20;

template <auto destroy>
struct Destroy {
  template <typename T>
  void operator()(T* object) const {
    destroy(object);
  }
};
template <typename Pointer, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Pointer>, Destroy<destroy>>;

using Handle = Owned<cudnnHandle_t, cudnnDestroy>;
using TensorDescriptor = Owned<cudnnTensorDescriptor_t, cudnnDestroyTensorDescriptor>;
using FilterDescriptor = Owned<cudnnFilterDescriptor_t, cudnnDestroyFilterDescriptor>;
using ConvolutionDescriptor =
    Owned<cudnnConvolutionDescriptor_t, cudnnDestroyConvolutionDescriptor>;

template <typename Owner, typename Create>
Owner make_owned(Create create, const char* call) {
  typename Owner::pointer made = nullptr;
  check(create(&made), call);
  return Owner(made);
}

/// Batch, height, width, channels in and out, and what is multiplied.
using Shape = std::tuple<int, int, int, int, int, Precision>;

template <typename Of>
Shape shape_of(const Of& of) {
  return {of.batch, of.height, of.width, of.in_channels, of.out_channels, of.precision};
}

TensorDescriptor make_tensor(int batch, int channels, int height, int width) {
  auto made = make_owned<TensorDescriptor>(cudnnCreateTensorDescriptor,  //
                                           "cudnnCreateTensorDescriptor");
  check(cudnnSetTensor4dDescriptor(made.get(), CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, batch, channels,
                                   height, width),
        "cudnnSetTensor4dDescriptor");
  return made;
}

/// A 3 x 3 convolution at one shape, zero padding 1.
struct Descriptors {
  explicit Descriptors(const Shape& shape) {
    const auto [batch, height, width, in_channels, out_channels, precision] = shape;
    x = make_tensor(batch, in_channels, height, width);
    y = make_tensor(batch, out_channels, height, width);
    kernel = make_owned<FilterDescriptor>(cudnnCreateFilterDescriptor,  //
                                          "cudnnCreateFilterDescriptor");
    check(cudnnSetFilter4dDescriptor(kernel.get(), CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC,
                                     out_channels, in_channels, 3, 3),
          "cudnnSetFilter4dDescriptor");
    convolution = make_owned<ConvolutionDescriptor>(cudnnCreateConvolutionDescriptor,
                                                    "cudnnCreateConvolutionDescriptor");
    check(cudnnSetConvolution2dDescriptor(convolution.get(), 1, 1, 1, 1, 1, 1,
                                          CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
          "cudnnSetConvolution2dDescriptor");
    // fp32: neither tensor cores nor their TF32. Numbers of bf16 are numbers of TF32 as well, and
    // their products exact in single precision: so TF32 serves both.
    math = precision == Precision::fp32 ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH;
    check(cudnnSetConvolutionMathType(convolution.get(), math), "cudnnSetConvolutionMathType");
  }

  TensorDescriptor x, y;
  FilterDescriptor kernel;
  ConvolutionDescriptor convolution;
  cudnnMathType_t math;
};

/// Sums of products in single precision, as a loop would form them: no transforms, which round
/// worse and carry what is not finite to pixels beside it.
bool is_plain(cudnnConvolutionFwdAlgo_t algorithm) {
  return algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM ||
         algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM ||
         algorithm == CUDNN_CONVOLUTION_FWD_ALGO_GEMM;
}
bool is_plain(cudnnConvolutionBwdFilterAlgo_t algorithm) {
  return algorithm == CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
}

/// The first, which the heuristics think the fastest, that is plain, multiplies as asked and gives
/// the same bits every time; otherwise `general`, which does and takes every shape.
template <typename Found, std::size_t size, typename Algorithm>
Algorithm choose(const Found (&found)[size], int num_found, cudnnMathType_t math,
                 Algorithm general) {
  for (int i = 0; i < num_found; ++i)
    if (found[i].status == CUDNN_STATUS_SUCCESS && found[i].determinism == CUDNN_DETERMINISTIC &&
        found[i].mathType == math && found[i].memory <= most_workspace_bytes &&
        is_plain(found[i].algo))
      return found[i].algo;
  return general;
}

struct ForwardPlan : Descriptors {
  ForwardPlan(const Shape& shape, cudnnHandle_t handle) : Descriptors(shape) {
    cudnnConvolutionFwdAlgoPerf_t found[CUDNN_CONVOLUTION_FWD_ALGO_COUNT];
    int num_found = 0;
    check(cudnnGetConvolutionForwardAlgorithm_v7(handle, x.get(), kernel.get(), convolution.get(),
                                                 y.get(), CUDNN_CONVOLUTION_FWD_ALGO_COUNT,
                                                 &num_found, found),
          "cudnnGetConvolutionForwardAlgorithm_v7");
    algorithm = choose(found, num_found, math, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM);
    check(cudnnGetConvolutionForwardWorkspaceSize(handle, x.get(), kernel.get(), convolution.get(),
                                                  y.get(), algorithm, &workspace_bytes),
          "cudnnGetConvolutionForwardWorkspaceSize");
  }

  cudnnConvolutionFwdAlgo_t algorithm;
  std::size_t workspace_bytes = 0;
};

struct GradientPlan : Descriptors {
  GradientPlan(const Shape& shape, cudnnHandle_t handle) : Descriptors(shape) {
    cudnnConvolutionBwdFilterAlgoPerf_t found[CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT];
    int num_found = 0;
    check(cudnnGetConvolutionBackwardFilterAlgorithm_v7(
              handle, x.get(), y.get(), convolution.get(), kernel.get(),
              CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT, &num_found, found),
          "cudnnGetConvolutionBackwardFilterAlgorithm_v7");
    algorithm = choose(found, num_found, math, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1);
    check(
        cudnnGetConvolutionBackwardFilterWorkspaceSize(handle, x.get(), y.get(), convolution.get(),
                                                       kernel.get(), algorithm, &workspace_bytes),
        "cudnnGetConvolutionBackwardFilterWorkspaceSize");
  }

  cudnnConvolutionBwdFilterAlgo_t algorithm;
  std::size_t workspace_bytes = 0;
};

/// What a stream has of its own, so that streams run side by side.
class StreamTools {
 public:
  explicit StreamTools(cudaStream_t stream)
      : memory_(stream), handle_(make_owned<Handle>(cudnnCreate, "cudnnCreate")) {
    check(cudnnSetStream(handle_.get(), stream), "cudnnSetStream");
  }

  cudnnHandle_t handle() const { return handle_.get(); }
  /// How often the workspace moved.
  int num_moves() const { return num_moves_; }

  void* workspace(std::size_t bytes) {
    if (workspace_.bytes() < bytes) ++num_moves_;
    workspace_.ensure(bytes, Memory::workspace, memory_);
    return workspace_.data();
  }

 private:
  StreamMemory memory_;
  Handle handle_;
  Buffer<std::byte> workspace_;
  int num_moves_ = 0;
};

template <typename Plan>
const Plan& plan_of(const Shape& shape, cudnnHandle_t handle, std::map<Shape, Plan>* plans) {
  const auto found = plans->find(shape);
  if (found != plans->end()) return found->second;
  return plans->emplace(shape, Plan(shape, handle)).first->second;
}

}  // namespace

struct CudnnConvolutions::Internals {
  StreamTools& tools_of(Stream stream, cudaStream_t cuda_stream) {
    const auto index = static_cast<std::size_t>(stream.index);
    if (tools.size() <= index) tools.resize(index + 1);
    if (!tools[index]) tools[index] = std::make_unique<StreamTools>(cuda_stream);
    return *tools[index];
  }

  std::vector<std::unique_ptr<StreamTools>> tools;
  std::map<Shape, ForwardPlan> forward_plans;
  std::map<Shape, GradientPlan> gradient_plans;
};

CudnnConvolutions::CudnnConvolutions() : internals_(std::make_unique<Internals>()) {}
CudnnConvolutions::~CudnnConvolutions() = default;

int CudnnConvolutions::num_moves() const {
  int sum = 0;
  for (const auto& tools : internals_->tools)
    if (tools) sum += tools->num_moves();
  return sum;
}

void CudnnConvolutions::run(const Convolution& convolution, Stream stream,
                            cudaStream_t cuda_stream) {
  StreamTools& tools = internals_->tools_of(stream, cuda_stream);
  const ForwardPlan& plan =
      plan_of(shape_of(convolution), tools.handle(), &internals_->forward_plans);
  const float alpha = 1, beta = 0;
  check(cudnnConvolutionForward(tools.handle(), &alpha, plan.x.get(), convolution.x,
                                plan.kernel.get(), convolution.kernel, plan.convolution.get(),
                                plan.algorithm, tools.workspace(plan.workspace_bytes),
                                plan.workspace_bytes, &beta, plan.y.get(), convolution.y),
        "cudnnConvolutionForward");
}

void CudnnConvolutions::run(const ConvolutionGradient& gradient, Stream stream,
                            cudaStream_t cuda_stream) {
  StreamTools& tools = internals_->tools_of(stream, cuda_stream);
  const GradientPlan& plan =
      plan_of(shape_of(gradient), tools.handle(), &internals_->gradient_plans);
  const float alpha = 1, beta = gradient.adds ? 1.0f : 0.0f;
  check(cudnnConvolutionBackwardFilter(
            tools.handle(), &alpha, plan.x.get(), gradient.x, plan.y.get(), gradient.grad_y,
            plan.convolution.get(), plan.algorithm, tools.workspace(plan.workspace_bytes),
            plan.workspace_bytes, &beta, plan.kernel.get(), gradient.grad_kernel),
        "cudnnConvolutionBackwardFilter");
}

}  // namespace revode::cuda
