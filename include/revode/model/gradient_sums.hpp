// The gradient of a mini-batch in one flat array: exact sums while micro-batches are added, plain
// numbers afterwards, in the same memory, which is the backend's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "revode/backend/backend.hpp"

namespace revode {

template <typename Real>
class GradientSums {
 public:
  /// `backend` must outlive the sums.
  GradientSums(std::size_t size, Backend<Real>& backend)
      : backend_(backend),
        sums_(size, Memory::gradients, backend),
        last_out_of_range_(1, Memory::workspace, backend) {}

  std::size_t size() const { return sums_.size(); }
  /// Every sum becomes 0.
  void clear() { backend_.zero(sums_.data(), sums_.bytes()); }
  /// To be added to, between clear() and finish().
  ExactSum* sums() { return sums_.data(); }
  /// The same, to be exchanged with other replicas before finish().
  StagedBuffer<ExactSum>& staged_sums() { return sums_; }
  /// Turns the sums into the nearest values, once. Queued.
  void finish();
  /// After finish(): the last entry whose sum was out of range, if there is one. Waits for it.
  std::optional<std::size_t> out_of_range();
  /// After finish().
  Real* values() { return reinterpret_cast<Real*>(sums_.data()); }

  /// Copies for the host, after and before finish(): as long as nothing is added or cleared.
  std::span<Real> read_values();
  std::span<const ExactSum> read_sums() { return sums_.read(); }

 private:
  Backend<Real>& backend_;
  StagedBuffer<ExactSum> sums_;
  StagedBuffer<std::int64_t> last_out_of_range_;  // 1 + the entry; 0: none
};

}  // namespace revode
