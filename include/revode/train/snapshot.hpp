// A copy of what a checkpoint is to hold, so that training goes on while it is written.
#pragma once

#include <cstddef>

#include "revode/core/buffer.hpp"

namespace revode {

struct CheckpointContents;

class Snapshot {
 public:
  /// Takes the memory that copies of `contents` will need.
  void reserve(const CheckpointContents& contents);
  /// Copies this rank's rows. The copies stay until the next ones are taken.
  void take(const CheckpointContents& contents);
  /// Makes `contents`, which are of the same network, point to the copies.
  void point(CheckpointContents& contents);

 private:
  Buffer<float> values_;
};

}  // namespace revode
