// Softmax cross-entropy of logits, and its gradient. Knows nothing of where logits come from.
#pragma once

#include <cstdint>
#include <span>

namespace revode {

/// What the closing makes of a micro-batch.
struct MicroBatchResult {
  double loss_sum = 0;  ///< of the cross-entropy over its samples
  int num_correct = 0;
  int num_samples = 0;
};

/// loss_n = log(sum_k exp(l_nk)) - l_n,label, shifted by the largest logit; a hit where the largest
/// (the first of equals) is the label's. Sums in sample order, in double. logits [samples,
/// classes]; labels [samples]; probabilities [samples, classes] (overwritten): the softmax.
template <typename Real>
MicroBatchResult softmax_cross_entropy(std::span<const Real> logits,
                                       std::span<const std::uint8_t> labels,
                                       std::span<double> probabilities);

/// d(loss_sum / mini_batch)/dlogits = (softmax - one at the label) / mini_batch.
/// grad_logits [samples, classes] (overwritten).
template <typename Real>
void softmax_cross_entropy_gradient(std::span<const double> probabilities,
                                    std::span<const std::uint8_t> labels, int mini_batch,
                                    std::span<Real> grad_logits);

}  // namespace revode
