#include "revode/train/training_step.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "revode/core/error.hpp"
#include "revode/train/replicas.hpp"

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

TrainingStep::TrainingStep(Network& network)
    : network_(network),
      schedule_(*network.plan().schedule),
      guard_(network),
      momentum_(network.plan().config.momentum),
      clip_norm_(network.plan().config.clip_norm) {
  const Config& config = network.plan().config;
  for (const auto& share : network.shares()) {
    regularizers_.emplace_back(network.architecture(), share->slice().range(), share->map(),
                               config.weight_decay, config.smoothness, network.backend(),
                               network.grid().time(), network.placement(), share->index());
    share->gradient();  // so that the start-up block counts it
  }
  network.pipeline().prepare(schedule_, network.plan().num_micro_batches);
}

/// Queued. What of the neighbours' weights did not arrive as it was sent.
std::optional<Damage> TrainingStep::add_regularization() {
  std::optional<Damage> damage;
  PhaseTimer* timer = network_.phase_timer();
  TraceRecorder* trace = network_.trace();
  {
    const PhaseScope timed(timer, Phase::waiting);
    const TraceScope traced(trace, TraceAction::wait);
    for (Regularizer& regularizer : regularizers_) regularizer.post_edges();
    for (std::size_t s = 0; s < regularizers_.size(); ++s)
      if (!regularizers_[s].wait_for_edges() && !damage)
        damage = Damage{.kind = DamageKind::edge_weights, .slice = network_.shares()[s]->index()};
  }
  const PhaseScope timed(timer, Phase::regularization);
  const TraceScope traced(trace, TraceAction::regularization);
  guard_.look();
  for (std::size_t s = 0; s < regularizers_.size(); ++s) {
    Share<float>& share = *network_.shares()[s];
    regularizers_[s].add(share.values().data(), share.gradient().values());
  }
  return damage;
}

void TrainingStep::check_reversal(bool on) {
  for (const auto& share : network_.shares()) share->slice().check_reversal(on);
}

StepReport TrainingStep::compute_gradient(const MiniBatchSource& source, bool stop_requested,
                                          const OnLogits& on_logits) {
  std::vector<Damage> repeated;
  while (true) {
    StepReport report = try_gradient(source, stop_requested, on_logits);
    const bool is_last_try = std::ssize(repeated) + 1 == most_damaged_tries;
    if (!report.damage || !report.damage->can_be_repeated() || is_last_try) {
      report.repeated = std::move(repeated);
      return report;
    }
    repeated.push_back(*report.damage);
  }
}

// On a device the host waits once, when all of the gradient is queued: what is found on the way
// stays there until then. Messages between ranks have been waited for before, and what replicas
// exchange.
// What a rank finds is agreed on with the other sums over the ranks, so that looking costs no more
// of those.
StepReport TrainingStep::try_gradient(const MiniBatchSource& source, bool stop_requested,
                                      const OnLogits& on_logits) {
  const Communicator& world = network_.grid().world();
  PhaseTimer* timer = network_.phase_timer();
  TraceRecorder* trace = network_.trace();
  {
    const PhaseScope timed(timer, Phase::optimizer);
    const TraceScope traced(trace, TraceAction::optimizer);
    for (std::size_t s = 0; s < regularizers_.size(); ++s) {
      Share<float>& share = *network_.shares()[s];
      share.gradient().clear();
      regularizers_[s].fetch_edges(share.values().data());
    }
  }
  std::optional<GradientExchange> exchange;
  if (network_.grid().num_replicas() > 1) exchange.emplace(network_);
  network_.pipeline().train(schedule_, source, on_logits, exchange ? &*exchange : nullptr);
  if (exchange) {
    const PhaseScope timed(timer, Phase::waiting);
    fetch_statistics(network_);
    exchange->finish();
    share_statistics(network_);
  }
  {
    const PhaseScope timed(timer, Phase::optimizer);
    const TraceScope traced(trace, TraceAction::optimizer);
    for (const auto& share : network_.shares()) share->gradient().finish();
  }
  const std::optional<Damage> of_edges = add_regularization();

  // What is left are sums over ranks: the time goes into waiting for the device, and for the last
  // of the ranks.
  const PhaseScope timed(timer, Phase::waiting);
  const TraceScope traced(trace, TraceAction::wait);
  network_.backend().wait(network_.backend().mark());
  if (trace != nullptr) {
    trace->note_copies();
    trace->read_device();
  }
  const MicroBatchResult result = network_.pipeline().result().total();
  std::optional<Damage> damage = message_damage(network_);
  if (!damage) damage = reversal_damage(network_);
  if (exchange && !damage)
    if (const std::optional<int> slice = exchange->damaged_slice())
      damage = Damage{.kind = DamageKind::gradient_sums, .slice = *slice};
  if (!damage) damage = of_edges;
  if (const std::optional<Damage> of_weights = guard_.damage()) damage = of_weights;
  std::vector<int> layers_of_sums;  // whose sums left the range
  for (const auto& share : network_.shares())
    if (const auto entry = share->gradient().out_of_range())
      layers_of_sums.push_back(layer_of_entry(network_.architecture(), share->map(), *entry));
  // Of all slices, in their order: so the sums do not depend on who owns what.
  std::vector<RowSums> rows_of_slices;
  for (Regularizer& regularizer : regularizers_) rows_of_slices.push_back(regularizer.row_sums());
  const RowSums rows =
      gather_row_sums(network_.grid().time(), network_.placement(), rows_of_slices);
  RangeCounts counts;
  for (const auto& share : network_.shares()) counts += share->slice().range_counts();
  // What the ranks add up; counts of a mini-batch are exact in a double.
  enum Field {
    loss,
    correct,
    out_of_range,
    rounded_to_zero,
    ranks_that_stop,
    ranks_with_damage,
    num_fields
  };
  const std::size_t num_stages = network_.architecture().stages().size();
  std::vector<double> mine(num_fields + num_stages);  // with the largest state of each stage
  if (network_.grid().replica() == 0) {               // all replicas have the same
    mine[loss] = result.loss_sum;
    mine[correct] = static_cast<double>(result.num_correct);
  }
  mine[out_of_range] = static_cast<double>(counts.out_of_range);
  mine[rounded_to_zero] = static_cast<double>(counts.rounded_to_zero);
  mine[ranks_that_stop] = stop_requested ? 1 : 0;
  mine[ranks_with_damage] = damage ? 1 : 0;
  const auto raise = [num_stages](std::span<double> largest, const auto& of_stages) {
    for (std::size_t k = 0; k < num_stages; ++k)
      largest[k] = std::max(largest[k], static_cast<double>(of_stages[k]));
  };
  for (const auto& share : network_.shares())
    raise(std::span(mine).last(num_stages), share->slice().largest_states());
  const std::vector<double> all = world.all_gather(mine);
  const auto sum_over_ranks = [&](Field field) {
    double sum = 0;
    for (std::size_t i = field; i < all.size(); i += mine.size()) sum += all[i];
    return sum;
  };
  std::vector<double> largest_state(num_stages);
  for (std::size_t i = num_fields; i < all.size(); i += mine.size())
    raise(largest_state, std::span(all).subspan(i, num_stages));
  return {
      .loss = sum_over_ranks(loss) / source.size(),
      .regularization = regularizers_.front().value(rows),
      .gradient_norm = std::sqrt(std::accumulate(rows.gradient.begin(), rows.gradient.end(), 0.0)),
      .num_correct = static_cast<std::int64_t>(sum_over_ranks(correct)),
      .num_samples = source.size(),
      .range = {static_cast<std::int64_t>(sum_over_ranks(out_of_range)),
                static_cast<std::int64_t>(sum_over_ranks(rounded_to_zero))},
      .largest_state = std::move(largest_state),
      .overflow = first_overflow(layers_of_sums),
      .stop_requested = sum_over_ranks(ranks_that_stop) > 0,
      .repeated = {},
      .damage = sum_over_ranks(ranks_with_damage) > 0 ? first_damage(damage, world) : std::nullopt};
}

// The lowest micro-batch of all ranks, then the layer nearest the closing. A sum counts as a
// micro-batch behind all others.
std::optional<StepReport::Overflow> TrainingStep::first_overflow(
    const std::vector<int>& layers_of_sums) {
  constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max(), in_sum = none - 1;
  const Communicator& world = network_.grid().world();
  std::int64_t micro_batch = none, layer = 0;
  const auto note = [&](std::int64_t in_micro_batch, int in_layer) {
    if (in_micro_batch > micro_batch || (in_micro_batch == micro_batch && in_layer < layer)) return;
    micro_batch = in_micro_batch;
    layer = in_layer;
  };
  for (const auto& share : network_.shares())
    if (const auto overflow = share->slice().gradient_overflow())
      note(overflow->micro_batch, overflow->layer);
  for (const int of_sum : layers_of_sums) note(in_sum, of_sum);
  const std::vector<std::int64_t> micro_batches = world.all_gather(micro_batch);
  const std::int64_t lowest = std::ranges::min(micro_batches);
  if (lowest == none) return std::nullopt;
  const std::vector<std::int64_t> layers = world.all_gather(layer);
  StepReport::Overflow first{.layer = -1};
  if (lowest != in_sum) first.micro_batch = static_cast<int>(lowest);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (micro_batches[rank] != lowest || layers[rank] <= first.layer) continue;
    first.rank = rank;
    first.layer = static_cast<int>(layers[rank]);
  }
  return first;
}

void TrainingStep::update(double rate, const StepReport& report) {
  const PhaseScope timed(network_.phase_timer(), Phase::optimizer);
  const TraceScope traced(network_.trace(), TraceAction::optimizer);
  const bool clip = clip_norm_ > 0 && report.gradient_norm > clip_norm_;
  const double scale = clip ? clip_norm_ / report.gradient_norm : 1.0;
  for (const auto& share : network_.shares()) {
    sgd_step(network_.backend(), share->map(), {rate, momentum_, scale}, share->gradient().values(),
             share->velocity().data(), share->values().data());
    share->slice().update_running_averages();
  }
  network_.load_weights();
  guard_.note();
  if (TraceRecorder* trace = network_.trace()) trace->note_copies();
}

NonFinite TrainingStep::explain(const MiniBatchSource& source, const StepReport& report,
                                const std::string& when) {
  if (!std::isfinite(report.loss))
    return {.what = "the loss is not finite",
            .event = fmt::format("the loss is not finite ({}) at {}: {}", report.loss, when,
                                 origin_of_non_finite(source)),
            .advice = divergence_advice};
  if (report.overflow) {
    const StepReport::Overflow& overflow = *report.overflow;
    constexpr const char* what = "the gradient left the range of exact sums";
    return {.what = what,
            .event = fmt::format("{}, rank {}, {}, {}: {}", when, overflow.rank,
                                 overflow.micro_batch
                                     ? fmt::format("micro-batch {}", *overflow.micro_batch)
                                     : "sum over the micro-batches",
                                 network_.architecture().layer_name(overflow.layer), what),
            .advice = "a smaller --step-size or --learning-rate may help"};
  }
  return {.what = "the gradient is not finite",
          .event = fmt::format("the gradient is not finite (norm {}) at {}: {}",
                               report.gradient_norm, when, origin_of_non_finite(source)),
          .advice = divergence_advice};
}

void TrainingStep::require_finite(const MiniBatchSource& source, const StepReport& report,
                                  const std::string& when) {
  if (report.damage) throw damage_error(*report.damage, when);
  if (!report.is_finite()) throw NonFiniteError(explain(source, report, when));
}

/// In words: the first layer whose output is not finite. Collective.
std::string TrainingStep::origin_of_non_finite(const MiniBatchSource& source) {
  const Communicator& world = network_.grid().world();
  const std::optional<NonFiniteLayer> mine = network_.pipeline().inspect(source);
  constexpr std::int64_t nowhere = std::numeric_limits<std::int64_t>::max();
  const std::vector<std::int64_t> layers =
      world.all_gather(mine ? std::int64_t{mine->layer} : nowhere);
  const std::vector<std::int64_t> micro_batches =
      world.all_gather(std::int64_t{mine ? mine->micro_batch : 0});
  const auto first = std::ranges::min_element(layers) - layers.begin();
  if (layers[first] == nowhere)
    return "every layer's output is finite, so it arose in the backward sweep";
  return fmt::format("it first appeared in {} (rank {}, micro-batch {})",
                     network_.architecture().layer_name(static_cast<int>(layers[first])), first,
                     micro_batches[first]);
}

}  // namespace revode
