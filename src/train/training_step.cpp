#include "revode/train/training_step.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "revode/core/error.hpp"

namespace revode {

TrainingStep::TrainingStep(const Config& config, Network& network)
    : network_(network),
      schedule_(schedule_rule(config.schedule)),
      regularizer_(network.architecture(), network.slice().range(), network.map(),
                   config.weight_decay, config.smoothness, network.communicator()),
      momentum_(config.momentum),
      clip_norm_(config.clip_norm),
      gradient_(network.map().size(), Memory::gradients) {}

Buffer<float>& TrainingStep::velocity() {
  if (velocity_.size() == 0) velocity_ = Buffer<float>(network_.map().size(), Memory::momentum);
  return velocity_;
}

StepReport TrainingStep::compute_gradient(const MiniBatchSource& source, bool stop_requested,
                                          const Executor::OnLogits& on_logits) {
  const Communicator& communicator = network_.communicator();
  PhaseTimer* timer = network_.phase_timer();
  {
    const PhaseScope timed(timer, Phase::optimizer);
    std::fill(gradient_.begin(), gradient_.end(), 0.0f);
  }
  const SweepResult sweep =
      network_.executor().train(schedule_, source, gradient_.data(), on_logits);
  {
    const PhaseScope timed(timer, Phase::waiting);
    regularizer_.exchange_edges(network_.values().data());
  }
  const RowSums rows = [&] {
    const PhaseScope timed(timer, Phase::regularization);
    return regularizer_.add(network_.values().data(), gradient_.data());
  }();

  // What is left are sums over ranks: the time goes into waiting for the last of them.
  const PhaseScope timed(timer, Phase::waiting);
  const RangeCounts counts = network_.slice().take_counts();
  // What the ranks add up; counts of a mini-batch are exact in a double.
  enum Field { loss, correct, out_of_range, rounded_to_zero, ranks_that_stop, num_fields };
  std::array<double, num_fields> mine{};
  mine[loss] = sweep.loss_sum;
  mine[correct] = static_cast<double>(sweep.num_correct);
  mine[out_of_range] = static_cast<double>(counts.out_of_range);
  mine[rounded_to_zero] = static_cast<double>(counts.rounded_to_zero);
  mine[ranks_that_stop] = stop_requested ? 1 : 0;
  const std::vector<double> all = communicator.all_gather(mine);
  const std::vector<double> gradient_rows = communicator.all_gather(rows.gradient);
  const auto sum_over_ranks = [&](Field field) {
    double sum = 0;
    for (std::size_t i = field; i < all.size(); i += num_fields) sum += all[i];
    return sum;
  };
  return {
      .loss = sum_over_ranks(loss) / source.size(),
      .regularization = regularizer_.value(communicator.all_gather(rows.decay),
                                           communicator.all_gather(rows.smoothness)),
      .gradient_norm = std::sqrt(std::accumulate(gradient_rows.begin(), gradient_rows.end(), 0.0)),
      .num_correct = static_cast<std::int64_t>(sum_over_ranks(correct)),
      .num_samples = source.size(),
      .range = {static_cast<std::int64_t>(sum_over_ranks(out_of_range)),
                static_cast<std::int64_t>(sum_over_ranks(rounded_to_zero))},
      .stop_requested = sum_over_ranks(ranks_that_stop) > 0};
}

void TrainingStep::update(double rate, const StepReport& report) {
  const PhaseScope timed(network_.phase_timer(), Phase::optimizer);
  const bool clip = clip_norm_ > 0 && report.gradient_norm > clip_norm_;
  sgd_step(network_.map(), rate, momentum_, clip ? clip_norm_ / report.gradient_norm : 1.0,
           gradient_.data(), velocity().data(), network_.values().data());
  network_.slice().load_weights();
}

void TrainingStep::explain_non_finite(const MiniBatchSource& source, const StepReport& report,
                                      const std::string& when) {
  const Communicator& communicator = network_.communicator();
  const std::optional<Executor::Finding> mine = network_.executor().inspect(source);
  constexpr std::int64_t nowhere = std::numeric_limits<std::int64_t>::max();
  const std::vector<std::int64_t> orders =
      communicator.all_gather(mine ? std::int64_t{mine->what.order} : nowhere);
  const auto first = std::min_element(orders.begin(), orders.end());
  const int rank = static_cast<int>(first - orders.begin());
  std::string where = "every layer's output is finite, so it arose in the backward sweep";
  if (*first != nowhere) {
    where =
        fmt::format("it first appeared in {} (rank {}, micro-batch {})",
                    communicator.broadcast(mine ? mine->what.layer : "", rank), rank,
                    communicator.broadcast(mine ? std::to_string(mine->micro_batch) : "", rank));
  }
  throw Error(
      ExitStatus::failure,
      fmt::format(
          "the {} at {}: {}; a smaller --learning-rate or --step-size, or --clip-norm, may help",
          std::isfinite(report.loss)
              ? fmt::format("gradient is not finite (norm {})", report.gradient_norm)
              : fmt::format("loss is not finite ({})", report.loss),
          when, where),
      ErrorScope::all_ranks);
}

}  // namespace revode
