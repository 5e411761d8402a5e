// Loss and accuracy of the network on samples, with running batch-norm statistics.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "revode/train/damage.hpp"
#include "revode/train/data_feed.hpp"
#include "revode/train/network.hpp"

namespace revode {

struct Evaluation {
  double loss = 0;  ///< mean cross-entropy
  double accuracy = 0;
  std::int64_t samples = 0;
  std::vector<Damage> repeated = {};  ///< found in messages of sweeps that were thrown away
};

/// Evaluates `indices` of the feed's split, as many micro-batches of the network's largest size (or
/// one less) as they fill, in one sweep: the pipeline fills and drains once. The same on every
/// rank. Throws an error that all ranks share where messages are damaged most_damaged_tries times.
/// logits: null, or on the last ranks room for [samples, classes], which is filled.
/// Collective.
Evaluation evaluate(Network& network, const DataFeed& feed, std::span<const std::int64_t> indices,
                    std::vector<float>* logits = nullptr);

}  // namespace revode
