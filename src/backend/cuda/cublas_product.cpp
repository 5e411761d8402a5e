#include "backend/cuda/cublas_product.hpp"

#include <cstddef>
#include <type_traits>

#include <cublas_v2.h>

#include "revode/core/buffer.hpp"

#include "backend/cuda/cuda_status.hpp"
#include "backend/cuda/stream_memory.hpp"

namespace revode::cuda {
namespace {

// What cuBLAS would take itself on the smallest of these devices (cuBLAS documentation,
// "cublasSetWorkspace").
constexpr std::size_t workspace_bytes = std::size_t{4} << 20;

struct DestroyHandle {
  void operator()(cublasHandle_t handle) const { cublasDestroy(handle); }
};
using Handle = std::unique_ptr<std::remove_pointer_t<cublasHandle_t>, DestroyHandle>;

Handle make_handle() {
  cublasHandle_t handle = nullptr;
  check(cublasCreate(&handle), "cublasCreate");
  return Handle(handle);
}

}  // namespace

// A workspace of its own: else bits could depend on what other streams do (cuBLAS documentation,
// "Results reproducibility").
struct CublasProducts::StreamTools {
  explicit StreamTools(cudaStream_t stream)
      : memory(stream),
        workspace(workspace_bytes, Memory::workspace, memory),
        handle(make_handle()) {
    check(cublasSetStream(handle.get(), stream), "cublasSetStream");
    check(cublasSetWorkspace(handle.get(), workspace.data(), workspace.bytes()),
          "cublasSetWorkspace");
    check(cublasSetMathMode(handle.get(), CUBLAS_PEDANTIC_MATH), "cublasSetMathMode");
  }

  StreamMemory memory;
  Buffer<std::byte> workspace;
  Handle handle;
};

CublasProducts::CublasProducts() = default;
CublasProducts::~CublasProducts() = default;

// cuBLAS takes columns first: c^T = b^T a^T.
void CublasProducts::run(const Product& p, Stream stream, cudaStream_t cuda_stream) {
  const auto index = static_cast<std::size_t>(stream.index);
  if (tools_.size() <= index) tools_.resize(index + 1);
  if (!tools_[index]) tools_[index] = std::make_unique<StreamTools>(cuda_stream);
  const float beta = p.adds ? 1.0f : 0.0f;
  check(cublasSgemm(tools_[index]->handle.get(), p.b_is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                    p.a_is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, p.columns, p.rows, p.inner,
                    &p.factor, p.b, p.b_is_transposed ? p.inner : p.columns, p.a,
                    p.a_is_transposed ? p.rows : p.inner, &beta, p.c, p.columns),
        "cublasSgemm");
}

}  // namespace revode::cuda
