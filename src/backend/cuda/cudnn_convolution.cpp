#include "backend/cuda/cudnn_convolution.hpp"

#include <cstddef>
#include <map>
#include <type_traits>
#include <vector>

#include <cudnn.h>

#include "revode/core/buffer.hpp"

#include "backend/cuda/cuda_status.hpp"
#include "backend/cuda/cudnn_plan.hpp"
#include "backend/cuda/stream_memory.hpp"

namespace revode::cuda {
namespace {

struct DestroyHandle {
  void operator()(cudnnHandle_t handle) const { cudnnDestroy(handle); }
};
using Handle = std::unique_ptr<std::remove_pointer_t<cudnnHandle_t>, DestroyHandle>;

Handle make_handle(cudaStream_t stream) {
  cudnnHandle_t handle = nullptr;
  check(cudnnCreate(&handle), "cudnnCreate");
  Handle made(handle);
  check(cudnnSetStream(handle, stream), "cudnnSetStream");
  return made;
}

/// What a stream has of its own, so that streams run side by side.
class StreamTools {
 public:
  explicit StreamTools(cudaStream_t stream) : memory_(stream), handle_(make_handle(stream)) {}

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

}  // namespace

struct CudnnConvolutions::Internals {
  StreamTools& tools_of(Stream stream, cudaStream_t cuda_stream) {
    const auto index = static_cast<std::size_t>(stream.index);
    if (tools.size() <= index) tools.resize(index + 1);
    if (!tools[index]) tools[index] = std::make_unique<StreamTools>(cuda_stream);
    return *tools[index];
  }

  const CudnnPlan& plan_of(const PlanShape& shape, cudnnHandle_t handle) {
    const auto found = plans.find(shape);
    if (found != plans.end()) return found->second;
    return plans.try_emplace(shape, shape, PlanDevice{.handle = handle}).first->second;
  }

  void run(const PlanShape& shape, const void* x, const void* kernel, const void* y,
           StreamTools& of_stream) {
    const CudnnPlan& plan = plan_of(shape, of_stream.handle());
    plan.run(of_stream.handle(), x, kernel, y, of_stream.workspace(plan.workspace_bytes()));
  }

  std::vector<std::unique_ptr<StreamTools>> tools;
  std::map<PlanShape, CudnnPlan> plans;
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
  internals_->run(PlanShape(convolution), convolution.x, convolution.kernel, convolution.y,
                  internals_->tools_of(stream, cuda_stream));
}

void CudnnConvolutions::run(const ConvolutionGradient& gradient, Stream stream,
                            cudaStream_t cuda_stream) {
  internals_->run(PlanShape(gradient), gradient.x, gradient.grad_kernel, gradient.grad_y,
                  internals_->tools_of(stream, cuda_stream));
}

}  // namespace revode::cuda
