// One update of the weights: sweeps, regularisation, clipping, optimiser. Knows nothing of epochs,
// files or reports.
#pragma once

#include <cstdint>

#include "revode/train/network.hpp"
#include "revode/train/optimizer.hpp"
#include "revode/train/regularizer.hpp"

namespace revode {

/// Of one mini-batch, the same on every rank.
struct StepReport {
  double loss = 0;            ///< mean cross-entropy
  double regularization = 0;  ///< weight decay and smoothness
  double gradient_norm = 0;   ///< of the sum of both, before clipping
  std::int64_t num_correct = 0;
  std::int64_t num_samples = 0;
  RangeCounts range;
  bool stop_requested = false;  ///< on any rank
};

class TrainingStep {
 public:
  TrainingStep(const Config& config, Network& network);

  /// The gradient of loss + regularisation at the present weights, into gradient() (the rank's
  /// share). Collective.
  StepReport compute_gradient(const MiniBatchSource& source, bool stop_requested = false,
                              const Executor::OnLogits& on_logits = {});
  /// Clips where asked and updates the weights with it.
  void update(double rate, const StepReport& report);

  Buffer<float>& gradient() { return gradient_; }
  Buffer<float>& velocity();

  /// After a report that is not finite: throws an Error that all ranks share and that says where it
  /// came from. Collective.
  [[noreturn]] void explain_non_finite(const MiniBatchSource& source, const StepReport& report,
                                       const std::string& when);

 private:
  Network& network_;
  const ScheduleRule& schedule_;
  Regularizer regularizer_;
  double momentum_;
  double clip_norm_;
  Buffer<float> gradient_;
  Buffer<float> velocity_;  // made when first needed: `gradient` alone needs none
};

}  // namespace revode
