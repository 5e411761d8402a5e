// Work for the stream of the kernels, as a value: it can be kept, compared and done again.
#pragma once

#include <cstddef>
#include <variant>

#include "backend/cuda/device.hpp"

namespace revode::cuda {

/// Bytes of zeros.
struct Fill {
  void* to = nullptr;
  std::size_t bytes = 0;

  bool operator==(const Fill&) const = default;
  Accesses accesses() const { return Accesses().writes(static_cast<std::byte*>(to), bytes); }
};

/// Within the device.
struct Copy {
  void* to = nullptr;
  const void* from = nullptr;
  std::size_t bytes = 0;

  bool operator==(const Copy&) const = default;
  Accesses accesses() const {
    return Accesses()
        .writes(static_cast<std::byte*>(to), bytes)
        .reads(static_cast<const std::byte*>(from), bytes);
  }
};

using Task = std::variant<Kernel, Convolution, ConvolutionGradient, Product, Fill, Copy>;

Accesses accesses_of(const Task& task);
void run(const Task& task, Device& device, Stream stream);

}  // namespace revode::cuda
