// The gradient of a mini-batch in one flat array: exact sums while micro-batches are added, float32
// afterwards, in the same memory.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "revode/backend/exact_sum.hpp"
#include "revode/core/buffer.hpp"

namespace revode {

class GradientSums {
 public:
  GradientSums() = default;
  explicit GradientSums(std::size_t size) : sums_(size, Memory::gradients) {}

  std::size_t size() const { return sums_.size(); }
  /// Every sum becomes 0.
  void clear();
  /// To be added to, between clear() and finish().
  ExactSum* sums() { return sums_.data(); }
  /// Turns the sums into the nearest float32 values, once. Returns the last entry whose sum was out
  /// of range, if there is one.
  std::optional<std::size_t> finish();
  /// After finish().
  std::span<float> values() { return {reinterpret_cast<float*>(sums_.data()), sums_.size()}; }
  std::span<const float> values() const {
    return {reinterpret_cast<const float*>(sums_.data()), sums_.size()};
  }

 private:
  Buffer<ExactSum> sums_;
};

}  // namespace revode
