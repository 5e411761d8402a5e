#include "revode/train/snapshot.hpp"

#include <algorithm>

#include "revode/checkpoint/checkpoint_writer.hpp"

namespace revode {
namespace {

std::size_t num_values(const ArraySlice& slice) {
  auto values = static_cast<std::size_t>(slice.num_rows);
  for (std::size_t i = 1; i < slice.shape.size(); ++i) values *= slice.shape[i];
  return values;
}

}  // namespace

void Snapshot::reserve(const CheckpointContents& contents) {
  std::size_t size = 0;
  for (const ArraySlice& slice : contents.arrays) size += num_values(slice);
  values_.ensure(size, Memory::snapshot);
}

void Snapshot::take(const CheckpointContents& contents) {
  reserve(contents);
  float* next = values_.data();
  for (const ArraySlice& slice : contents.arrays)
    next = std::copy_n(slice.data, num_values(slice), next);
}

void Snapshot::point(CheckpointContents& contents) {
  float* next = values_.data();
  for (ArraySlice& slice : contents.arrays) {
    slice.data = next;
    next += num_values(slice);
  }
}

}  // namespace revode
