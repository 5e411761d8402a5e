// One update of the weights: sweeps, regularisation, clipping, optimiser. Knows nothing of epochs,
// files or reports.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "revode/train/damage.hpp"
#include "revode/train/network.hpp"
#include "revode/train/non_finite.hpp"
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
  std::vector<double> largest_state;  ///< magnitude, of each stage
  /// Where the gradient left the range of exact sums: the lowest micro-batch, in it the layer
  /// nearest the closing. The gradient is of no use then.
  struct Overflow {
    int rank = 0;
    std::optional<int> micro_batch = std::nullopt;  ///< none: it was the sum over micro-batches
    int layer = 0;
  };
  std::optional<Overflow> overflow;
  bool stop_requested = false;  ///< on any rank
  /// What was found in tries before this one, each of which was thrown away.
  std::vector<Damage> repeated;
  /// Found in this one: the gradient is of no use then.
  std::optional<Damage> damage;

  /// Loss and gradient are, and none of the sums left its range: the update may be made, unless
  /// there is damage.
  bool is_finite() const {
    return std::isfinite(loss) && !overflow && std::isfinite(gradient_norm);
  }
};

class TrainingStep {
 public:
  explicit TrainingStep(Network& network);

  /// The gradient of loss + regularisation at the present weights, into that of the network's
  /// shares. Where damage is found that the numbers outside it may not have, once more from the
  /// same weights, up to most_damaged_tries times. Collective.
  StepReport compute_gradient(const MiniBatchSource& source, bool stop_requested = false,
                              const OnLogits& on_logits = {});
  /// Of a report that is not finite: what it was and where it came from. when: e.g. "step 7 (epoch
  /// 0)". Collective.
  NonFinite explain(const MiniBatchSource& source, const StepReport& report,
                    const std::string& when);
  /// Throws an error that explains it, unless the report is finite and without damage. Collective.
  void require_finite(const MiniBatchSource& source, const StepReport& report,
                      const std::string& when);
  /// Clips where asked and updates the weights and running averages.
  void update(double rate, const StepReport& report);

  /// Weights and momentum are as they should be from now on until update(), which says so itself:
  /// what changes in between is damage.
  void guard_weights() { guard_.note(); }
  /// The first of this rank's arrays that has changed.
  std::optional<Damage> find_weight_damage() {
    guard_.look();
    return guard_.damage();
  }
  /// Whether gradients from now on are computed with TimeSlice::check_reversal().
  void check_reversal(bool on);

 private:
  StepReport try_gradient(const MiniBatchSource& source, bool stop_requested,
                          const OnLogits& on_logits);
  std::optional<Damage> add_regularization();
  std::optional<StepReport::Overflow> first_overflow(const std::vector<int>& layers_of_sums);
  std::string origin_of_non_finite(const MiniBatchSource& source);

  Network& network_;
  const ScheduleRule& schedule_;
  std::vector<Regularizer> regularizers_;  // of the shares
  WeightGuard guard_;
  double momentum_;
  double clip_norm_;
};

}  // namespace revode
