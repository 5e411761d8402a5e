// How cuDNN computes a convolution: an execution plan of its graph API, chosen by its heuristics
// from the shape and the device alone, nothing is timed. Only engines that give the same bits every
// time, multiply in the precision asked for and sum products as a loop would: no transforms, which
// round worse and carry what is not finite to pixels beside it.
#pragma once

#include <compare>
#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include <cudnn.h>

#include "backend/cuda/device.hpp"

namespace revode::cuda {

/// A descriptor of cuDNN's graph API.
struct DestroyDescriptor {
  void operator()(cudnnBackendDescriptor_t descriptor) const {
    cudnnBackendDestroyDescriptor(descriptor);
  }
};
using Descriptor =
    std::unique_ptr<std::remove_pointer_t<cudnnBackendDescriptor_t>, DestroyDescriptor>;

/// For what device plans are made: that of a handle; or one of which only the properties are known,
/// so that what cuDNN does there can be asked anywhere. Such plans can't be run.
struct PlanDevice {
  cudnnHandle_t handle = nullptr;
  const Descriptor* properties = nullptr;
};

/// The properties as cuDNN writes them. Throws std::runtime_error where it doesn't take them.
Descriptor make_device_properties(const std::string& json);

/// What is to be computed: 3 x 3, zero padding 1, all in NHWC (device.hpp).
struct PlanShape {
  explicit PlanShape(const Convolution& of);
  explicit PlanShape(const ConvolutionGradient& of);
  auto operator<=>(const PlanShape&) const = default;

  int batch, height, width, in_channels, out_channels;
  bool is_gradient;  ///< of the kernel
  Precision precision;
};

/// A kernel of cuDNN with its settings.
struct EngineChoice {
  Descriptor config;
  int engine = 0;  ///< by which cuDNN names it among those for this kind of work
  std::vector<cudnnBackendNumericalNote_t> notes;
};

/// Those that are allowed, which the heuristics think the fastest first.
std::vector<EngineChoice> engine_choices(const PlanShape& shape, PlanDevice device);

class CudnnPlan {
 public:
  /// By the first that there is for the device. Throws std::runtime_error where cuDNN has none.
  /// cuDNN compiles engines for bf16 now, which takes a second or so.
  CudnnPlan(const PlanShape& shape, PlanDevice device);

  const EngineChoice& choice() const { return choice_; }
  std::size_t workspace_bytes() const { return workspace_bytes_; }

  /// The result is y, or of a gradient `kernel`.
  void run(cudnnHandle_t handle, const void* x, const void* kernel, const void* y,
           void* workspace) const;

 private:
  EngineChoice choice_;
  Descriptor plan_;
  std::size_t workspace_bytes_ = 0;
};

}  // namespace revode::cuda
