#include "backend/cuda/task.hpp"

namespace revode::cuda {
namespace {

struct Runner {
  Device& device;
  Stream stream;

  void operator()(const Kernel& kernel) const { device.launch(kernel, stream); }
  void operator()(const Convolution& convolution) const { device.convolve(convolution, stream); }
  void operator()(const ConvolutionGradient& gradient) const { device.convolve(gradient, stream); }
  void operator()(const Product& product) const { device.multiply(product, stream); }
  void operator()(const Fill& fill) const { device.zero(fill.to, fill.bytes, stream); }
  void operator()(const Copy& copy) const { device.copy(copy.to, copy.from, copy.bytes, stream); }
};

struct AccessesOf {
  template <typename Of>
  Accesses operator()(const Of& of) const {
    return of.accesses();
  }
  Accesses operator()(const Kernel& kernel) const { return std::visit(*this, kernel); }
};

}  // namespace

Accesses accesses_of(const Task& task) { return std::visit(AccessesOf(), task); }

void run(const Task& task, Device& device, Stream stream) {
  std::visit(Runner{device, stream}, task);
}

}  // namespace revode::cuda
