// Softmax cross-entropy, and the running averages of batch norm; see backend/backend.hpp.
#pragma once

#include <cstdint>
#include <string_view>

#include "revode/backend/ends.hpp"

#include "backend/cuda/kernel.hpp"

namespace revode::cuda {

/// probabilities [batch, classes] <- softmax; losses [batch]: those of the samples; hits [batch]: 1
/// where the first of the largest logits is the label's.
struct SoftmaxOfSamples {
  static constexpr std::string_view name = "softmax_of_samples";
  LossShape shape;
  const float* logits = nullptr;
  const std::uint8_t* labels = nullptr;
  double* probabilities = nullptr;
  double* losses = nullptr;
  std::int32_t* hits = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return shape.batch; }
  REVODE_ON_DEVICE void operator()(std::int64_t n) const {
    const float* l = logits + n * shape.num_classes;
    double* p = probabilities + n * shape.num_classes;
    int largest = 0;
    for (int k = 1; k < shape.num_classes; ++k)
      if (l[largest] < l[k]) largest = k;
    double sum = 0;
    for (int k = 0; k < shape.num_classes; ++k)
      sum += p[k] = exp(double{l[k]} - double{l[largest]});
    for (int k = 0; k < shape.num_classes; ++k) p[k] /= sum;
    losses[n] = log(sum) + double{l[largest]} - double{l[labels[n]]};
    hits[n] = largest == labels[n] ? 1 : 0;
  }
  Accesses accesses() const {
    const std::size_t num_logits = std::size_t{1} * shape.batch * shape.num_classes;
    return Accesses()
        .reads(logits, num_logits)
        .reads(labels, shape.batch)
        .writes(probabilities, num_logits)
        .writes(losses, shape.batch)
        .writes(hits, shape.batch);
  }
};

/// *sums <- of losses and hits, in sample order.
struct SumLosses {
  static constexpr std::string_view name = "sum_losses";
  int batch = 0;
  const double* losses = nullptr;
  const std::int32_t* hits = nullptr;
  LossSums* sums = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return 1; }
  REVODE_ON_DEVICE void operator()(std::int64_t) const {
    LossSums total;
    for (int n = 0; n < batch; ++n) {
      total.loss += losses[n];
      total.num_correct += hits[n];
    }
    *sums = total;
  }
  Accesses accesses() const {
    return Accesses().reads(losses, batch).reads(hits, batch).writes(sums, 1);
  }
};

/// grad_logits <- (probabilities - one at the label) / mini_batch
struct SoftmaxGradient {
  static constexpr std::string_view name = "softmax_gradient";
  LossShape shape;
  int mini_batch = 1;
  const double* probabilities = nullptr;
  const std::uint8_t* labels = nullptr;
  float* grad_logits = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const {
    return std::int64_t{1} * shape.batch * shape.num_classes;
  }
  REVODE_ON_DEVICE void operator()(std::int64_t i) const {
    const double at_label = i % shape.num_classes == labels[i / shape.num_classes] ? 1 : 0;
    grad_logits[i] = static_cast<float>((probabilities[i] - at_label) / mini_batch);
  }
  Accesses accesses() const {
    return Accesses()
        .reads(probabilities, size())
        .reads(labels, shape.batch)
        .writes(grad_logits, size());
  }
};

/// statistics <- running averages, as doubles.
struct ReadRunningAverages {
  static constexpr std::string_view name = "read_running_averages";
  int num_features = 0;
  const float* mean = nullptr;
  const float* variance = nullptr;
  NormStatistics statistics;

  REVODE_ON_DEVICE std::int64_t size() const { return num_features; }
  REVODE_ON_DEVICE void operator()(std::int64_t f) const {
    statistics.mean[f] = mean[f];
    statistics.variance[f] = variance[f];
  }
  Accesses accesses() const {
    return Accesses()
        .reads(mean, num_features)
        .reads(variance, num_features)
        .writes(statistics.mean, num_features)
        .writes(statistics.variance, num_features);
  }
};

/// mean, variance <- 0.9 of them + 0.1 of the statistics of each micro-batch, one after the other:
/// rows [num_batches, features], counts [num_batches].
struct UpdateRunningAverages {
  static constexpr std::string_view name = "update_running_averages";
  int num_features = 0;
  int num_batches = 0;
  const double* counts = nullptr;
  NormStatistics statistics;
  float* mean = nullptr;
  float* variance = nullptr;

  REVODE_ON_DEVICE std::int64_t size() const { return num_features; }
  REVODE_ON_DEVICE void operator()(std::int64_t f) const {
    constexpr double momentum = 0.1;
    double average_mean = mean[f], average_variance = variance[f];
    for (int m = 0; m < num_batches; ++m) {
      const double unbiased = counts[m] > 1 ? counts[m] / (counts[m] - 1) : 1;
      const std::int64_t of_batch = std::int64_t{1} * m * num_features + f;
      average_mean = (1 - momentum) * average_mean + momentum * statistics.mean[of_batch];
      average_variance =
          (1 - momentum) * average_variance + momentum * unbiased * statistics.variance[of_batch];
    }
    mean[f] = static_cast<float>(average_mean);
    variance[f] = static_cast<float>(average_variance);
  }
  Accesses accesses() const {
    const std::size_t rows = std::size_t{1} * num_batches * num_features;
    return Accesses()
        .reads(counts, num_batches)
        .reads(statistics.mean, rows)
        .reads(statistics.variance, rows)
        .writes(mean, num_features)
        .writes(variance, num_features);
  }
};

}  // namespace revode::cuda
