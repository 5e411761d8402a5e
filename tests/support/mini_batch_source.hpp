// A TestBatch as the source of a mini-batch.
#pragma once

#include <algorithm>

#include "revode/pipeline/network_work.hpp"

#include "support/slice_chain.hpp"

namespace revode {

/// `batch` must outlive the source.
inline MiniBatchSource source_of(const TestBatch<float>& batch) {
  return {.micro_batches = batch.micro_batches,
          .images =
              [&batch](int m, float* images) {
                std::copy_n(batch.images_of(m), batch.micro_batches[m] * batch.image_size, images);
              },
          .labels = [&batch](int m) { return batch.labels_of(m); }};
}

}  // namespace revode
