// Softmax cross-entropy, and the running averages of batch norm; see backend/backend.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

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
  bool operator==(const SoftmaxOfSamples&) const = default;
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

/// *sums <- of losses and hits. One block.
struct SumLosses {
  static constexpr std::string_view name = "sum_losses";
  static constexpr int num_threads = summing_threads;
  struct Shared {
    SumOfThreads<num_threads> loss, num_correct;
  };
  static constexpr int num_phases = 1 + SumOfThreads<num_threads>::num_rounds;
  int batch = 0;
  const double* losses = nullptr;
  const std::int32_t* hits = nullptr;
  LossSums* sums = nullptr;

  REVODE_ON_DEVICE std::int64_t num_blocks() const { return 1; }
  REVODE_ON_DEVICE void operator()(int phase, std::int64_t, int thread, Shared& shared) const {
    if (phase == 0) {
      double loss = 0, num_correct = 0;
      for (int n = thread; n < batch; n += num_threads) {
        loss += losses[n];
        num_correct += hits[n];
      }
      shared.loss.of_thread[thread] = loss;
      shared.num_correct.of_thread[thread] = num_correct;
      return;
    }
    shared.loss.add_halves(phase - 1, thread);
    shared.num_correct.add_halves(phase - 1, thread);
    if (phase == num_phases - 1 && thread == 0)
      *sums = {.loss = shared.loss.total(),
               .num_correct = static_cast<std::int64_t>(shared.num_correct.total())};
  }
  bool operator==(const SumLosses&) const = default;
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
  bool operator==(const SoftmaxGradient&) const = default;
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
  bool operator==(const ReadRunningAverages&) const = default;
  Accesses accesses() const {
    return Accesses()
        .reads(mean, num_features)
        .reads(variance, num_features)
        .writes(statistics.mean, num_features)
        .writes(statistics.variance, num_features);
  }
};

/// mean, variance <- 0.9 of them + 0.1 of the statistics of each micro-batch, one after the other,
/// rounded once at the end: rows [num_batches, features]. A launch takes some of the rows; between
/// launches the averages lie in `averages`.
struct UpdateRunningAverages {
  static constexpr std::string_view name = "update_running_averages";
  /// Whose counts go along as arguments, as no copy to the device need then be waited for.
  static constexpr std::size_t most_batches = 32;
  int num_features = 0;
  int num_batches = 0;
  bool is_first = false, is_last = false;
  double counts[most_batches] = {};
  NormStatistics statistics;   ///< of the first of the rows
  double* averages = nullptr;  ///< [2, features]
  float* mean = nullptr;
  float* variance = nullptr;

  UpdateRunningAverages(int num_features_in, const std::vector<double>& all_counts,
                        std::size_t first, NormStatistics all_statistics, double* averages_in,
                        float* mean_in, float* variance_in)
      : num_features(num_features_in),
        num_batches(static_cast<int>(std::min(most_batches, all_counts.size() - first))),
        is_first(first == 0),
        is_last(first + num_batches == all_counts.size()),
        statistics{all_statistics.mean + first * num_features_in,
                   all_statistics.variance + first * num_features_in},
        averages(averages_in),
        mean(mean_in),
        variance(variance_in) {
    std::copy_n(all_counts.data() + first, num_batches, counts);
  }

  REVODE_ON_DEVICE std::int64_t size() const { return num_features; }
  REVODE_ON_DEVICE void operator()(std::int64_t f) const {
    constexpr double momentum = 0.1;
    double average_mean = is_first ? mean[f] : averages[f];
    double average_variance = is_first ? variance[f] : averages[num_features + f];
    for (int m = 0; m < num_batches; ++m) {
      const double unbiased = counts[m] > 1 ? counts[m] / (counts[m] - 1) : 1;
      const std::int64_t of_batch = std::int64_t{1} * m * num_features + f;
      average_mean = (1 - momentum) * average_mean + momentum * statistics.mean[of_batch];
      average_variance =
          (1 - momentum) * average_variance + momentum * unbiased * statistics.variance[of_batch];
    }
    if (is_last) {
      mean[f] = static_cast<float>(average_mean);
      variance[f] = static_cast<float>(average_variance);
    } else {
      averages[f] = average_mean;
      averages[num_features + f] = average_variance;
    }
  }
  bool operator==(const UpdateRunningAverages&) const = default;
  Accesses accesses() const {
    const std::size_t rows = std::size_t{1} * num_batches * num_features;
    return Accesses()
        .reads(statistics.mean, rows)
        .reads(statistics.variance, rows)
        .writes(averages, std::size_t{2} * num_features)
        .writes(mean, num_features)
        .writes(variance, num_features);
  }
};

}  // namespace revode::cuda
