// Loss and accuracy of the network on samples, with running batch-norm statistics.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "revode/train/data_feed.hpp"
#include "revode/train/network.hpp"

namespace revode {

struct Evaluation {
  double loss = 0;  ///< mean cross-entropy
  double accuracy = 0;
  std::int64_t samples = 0;
};

/// Evaluates `indices` of the feed's split, as many micro-batches of the network's largest size (or
/// one less) as they fill, in one sweep: the pipeline fills and drains once. The same on every
/// rank. on_logits: on the last rank, for each micro-batch in order, the index of its first sample
/// among `indices` and its logits. Collective.
using OnSampleLogits =
    std::function<void(std::int64_t first_sample, std::span<const float> logits)>;
Evaluation evaluate(Network& network, const DataFeed& feed, std::span<const std::int64_t> indices,
                    const OnSampleLogits& on_logits = {});

}  // namespace revode
