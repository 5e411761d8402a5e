// A square matrix that is known by its products with vectors alone.
#pragma once

#include <cstddef>
#include <span>

namespace revode {

class LinearOperator {
 public:
  virtual ~LinearOperator() = default;
  virtual std::size_t size() const = 0;
  /// out [size] (overwritten) <- A v;  must not alias.
  virtual void apply(std::span<const double> v, std::span<double> out) = 0;
  /// out [size] (overwritten) <- A^T v
  virtual void apply_transposed(std::span<const double> v, std::span<double> out) = 0;
};

}  // namespace revode
