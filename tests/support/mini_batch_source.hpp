// A TestBatch as the source of a mini-batch.
#pragma once

#include "revode/pipeline/network_work.hpp"

#include "support/slice_chain.hpp"

namespace revode {

/// `batch` must outlive the source, and the sweeps that it is used in.
inline MiniBatchSource source_of(const TestBatch<float>& batch) {
  return {.micro_batches = batch.micro_batches,
          .images =
              [&batch](int m, Backend<float>& backend, float* images) {
                backend.copy_in(images, batch.images_of(m),
                                batch.micro_batches[m] * batch.image_size * sizeof(float));
              },
          .labels = [&batch](int m) { return batch.labels_of(m); }};
}

}  // namespace revode
