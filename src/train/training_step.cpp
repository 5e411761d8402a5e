#include "revode/train/training_step.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "revode/core/error.hpp"

namespace revode {
namespace {

/// The layer (Architecture::layer_name) that an entry of a flat array belongs to.
int layer_of_entry(const Architecture& architecture, const ParameterMap& map, std::size_t entry) {
  const auto in = [&](const ParameterEntry& array) {
    return array.offset <= entry && entry < array.offset + array.size();
  };
  for (std::size_t k = 0; k < map.stages.size(); ++k)
    for (const ParameterEntry* rows : {&map.stages[k].kernel, &map.stages[k].bias})
      if (in(*rows))
        return static_cast<int>(
            1 + architecture.stages()[k].first_coupling + rows->first_row +
            static_cast<std::int64_t>((entry - rows->offset) / rows->row_size()));
  return map.stages.front().kernel.offset > entry ? 0 : architecture.closing_layer();
}

}  // namespace

TrainingStep::TrainingStep(const Config& config, Network& network)
    : network_(network),
      schedule_(schedule_rule(config.schedule)),
      regularizer_(network.architecture(), network.slice().range(), network.map(),
                   config.weight_decay, config.smoothness, network.communicator(),
                   network.pipeline().placement(), network.communicator().rank()),
      momentum_(config.momentum),
      clip_norm_(config.clip_norm),
      gradient_(network.map().size()) {
  network.pipeline().prepare(schedule_, *config.micro_batches);
}

Buffer<float>& TrainingStep::velocity() {
  if (velocity_.size() == 0) velocity_ = Buffer<float>(network_.map().size(), Memory::momentum);
  return velocity_;
}

StepReport TrainingStep::compute_gradient(const MiniBatchSource& source, bool stop_requested,
                                          const OnLogits& on_logits) {
  const Communicator& communicator = network_.communicator();
  PhaseTimer* timer = network_.phase_timer();
  {
    const PhaseScope timed(timer, Phase::optimizer);
    gradient_.clear();
  }
  const SweepResult sweep =
      network_.pipeline().train(schedule_, source, {gradient_.sums()}, on_logits);
  const std::optional<std::size_t> sum_out_of_range = [&] {
    const PhaseScope timed(timer, Phase::optimizer);
    return gradient_.finish();
  }();
  {
    const PhaseScope timed(timer, Phase::waiting);
    regularizer_.post_edges(network_.values().data());
    regularizer_.wait_for_edges();
  }
  const RowSums rows = [&] {
    const PhaseScope timed(timer, Phase::regularization);
    return regularizer_.add(network_.values().data(), gradient().data());
  }();

  // What is left are sums over ranks: the time goes into waiting for the last of them.
  const PhaseScope timed(timer, Phase::waiting);
  const RangeCounts counts = network_.slice().take_counts();
  // What the ranks add up; counts of a mini-batch are exact in a double.
  enum Field { loss, correct, out_of_range, rounded_to_zero, ranks_that_stop, num_fields };
  const MicroBatchResult result = sweep.total();
  std::array<double, num_fields> mine{};
  mine[loss] = result.loss_sum;
  mine[correct] = static_cast<double>(result.num_correct);
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
      .overflow = first_overflow(sum_out_of_range),
      .stop_requested = sum_over_ranks(ranks_that_stop) > 0};
}

// The lowest micro-batch of all ranks, then the layer nearest the closing. A sum counts as a
// micro-batch behind all others.
std::optional<StepReport::Overflow> TrainingStep::first_overflow(
    std::optional<std::size_t> sum_out_of_range) {
  constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max(), in_sum = none - 1;
  const Communicator& communicator = network_.communicator();
  std::int64_t micro_batch = none, layer = 0;
  if (const auto& overflow = network_.slice().gradient_overflow()) {
    micro_batch = overflow->micro_batch;
    layer = overflow->layer;
  } else if (sum_out_of_range) {
    micro_batch = in_sum;
    layer = layer_of_entry(network_.architecture(), network_.map(), *sum_out_of_range);
  }
  const std::vector<std::int64_t> micro_batches = communicator.all_gather(micro_batch);
  const std::int64_t lowest = std::ranges::min(micro_batches);
  if (lowest == none) return std::nullopt;
  const std::vector<std::int64_t> layers = communicator.all_gather(layer);
  StepReport::Overflow first{.layer = -1};
  if (lowest != in_sum) first.micro_batch = static_cast<int>(lowest);
  for (int rank = 0; rank < communicator.size(); ++rank) {
    if (micro_batches[rank] != lowest || layers[rank] <= first.layer) continue;
    first.rank = rank;
    first.layer = static_cast<int>(layers[rank]);
  }
  return first;
}

void TrainingStep::update(double rate, const StepReport& report) {
  const PhaseScope timed(network_.phase_timer(), Phase::optimizer);
  const bool clip = clip_norm_ > 0 && report.gradient_norm > clip_norm_;
  sgd_step(network_.map(), rate, momentum_, clip ? clip_norm_ / report.gradient_norm : 1.0,
           gradient().data(), velocity().data(), network_.values().data());
  network_.slice().update_running_averages();
  network_.slice().load_weights();
}

void TrainingStep::require_finite(const MiniBatchSource& source, const StepReport& report,
                                  const std::string& when, const std::string& more) {
  const auto failure = [](const std::string& text) {
    return Error(ExitStatus::failure, text, ErrorScope::all_ranks);
  };
  const std::string addition = more.empty() ? "" : "; " + more;
  constexpr const char* advice =
      "a smaller --learning-rate or --step-size, or --clip-norm, may help";
  if (!std::isfinite(report.loss))
    throw failure(fmt::format("the loss is not finite ({}) at {}{}: {}; {}", report.loss, when,
                              addition, origin_of_non_finite(source), advice));
  if (report.overflow) {
    const StepReport::Overflow& overflow = *report.overflow;
    throw failure(fmt::format(
        "{}, rank {}, {}, {}: the gradient left the range of exact sums; a smaller --step-size or "
        "--learning-rate may help{}",
        when, overflow.rank,
        overflow.micro_batch ? fmt::format("micro-batch {}", *overflow.micro_batch)
                             : "sum over the micro-batches",
        network_.architecture().layer_name(overflow.layer), addition));
  }
  if (!std::isfinite(report.gradient_norm))
    throw failure(fmt::format("the gradient is not finite (norm {}) at {}{}: {}; {}",
                              report.gradient_norm, when, addition, origin_of_non_finite(source),
                              advice));
}

/// In words: the first layer whose output is not finite. Collective.
std::string TrainingStep::origin_of_non_finite(const MiniBatchSource& source) {
  const Communicator& communicator = network_.communicator();
  const std::optional<Finding> mine = network_.pipeline().inspect(source);
  constexpr std::int64_t nowhere = std::numeric_limits<std::int64_t>::max();
  const std::vector<std::int64_t> layers =
      communicator.all_gather(mine ? std::int64_t{mine->layer} : nowhere);
  const std::vector<std::int64_t> micro_batches =
      communicator.all_gather(std::int64_t{mine ? mine->micro_batch : 0});
  const auto first = std::ranges::min_element(layers) - layers.begin();
  if (layers[first] == nowhere)
    return "every layer's output is finite, so it arose in the backward sweep";
  return fmt::format("it first appeared in {} (rank {}, micro-batch {})",
                     network_.architecture().layer_name(static_cast<int>(layers[first])), first,
                     micro_batches[first]);
}

}  // namespace revode
