#include "revode/model/loss.hpp"

#include <algorithm>
#include <cmath>

namespace revode {

template <typename Real>
MicroBatchResult softmax_cross_entropy(std::span<const Real> logits,
                                       std::span<const std::uint8_t> labels,
                                       std::span<double> probabilities) {
  const std::size_t classes = logits.size() / labels.size();
  MicroBatchResult result{.num_samples = static_cast<int>(labels.size())};
  for (std::size_t n = 0; n < labels.size(); ++n) {
    const auto l = logits.subspan(n * classes, classes);
    const auto p = probabilities.subspan(n * classes, classes);
    const auto largest = std::ranges::max_element(l);
    double sum = 0;
    for (std::size_t k = 0; k < classes; ++k)
      sum += p[k] = std::exp(double{l[k]} - double{*largest});
    for (double& probability : p) probability /= sum;
    result.loss_sum += std::log(sum) + double{*largest} - double{l[labels[n]]};
    result.num_correct += largest - l.begin() == labels[n];
  }
  return result;
}

template <typename Real>
void softmax_cross_entropy_gradient(std::span<const double> probabilities,
                                    std::span<const std::uint8_t> labels, int mini_batch,
                                    std::span<Real> grad_logits) {
  const std::size_t classes = probabilities.size() / labels.size();
  for (std::size_t i = 0; i < probabilities.size(); ++i) {
    const double at_label = i % classes == labels[i / classes] ? 1 : 0;
    grad_logits[i] = static_cast<Real>((probabilities[i] - at_label) / mini_batch);
  }
}

template MicroBatchResult softmax_cross_entropy(std::span<const float>,
                                                std::span<const std::uint8_t>, std::span<double>);
template MicroBatchResult softmax_cross_entropy(std::span<const double>,
                                                std::span<const std::uint8_t>, std::span<double>);
template void softmax_cross_entropy_gradient(std::span<const double>, std::span<const std::uint8_t>,
                                             int, std::span<float>);
template void softmax_cross_entropy_gradient(std::span<const double>, std::span<const std::uint8_t>,
                                             int, std::span<double>);

}  // namespace revode
