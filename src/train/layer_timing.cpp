#include "revode/train/layer_timing.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

#include "revode/core/phase_timer.hpp"
#include "revode/core/random.hpp"
#include "revode/core/spread.hpp"
#include "revode/model/share.hpp"

namespace revode {
namespace {

/// The first warms caches and makes scratch.
constexpr int num_rounds = 5;
/// Of a timed message: 1 MiB.
constexpr std::size_t most_values_sent = std::size_t{1} << 18;
/// Ranks within this of the median are alike: less is noise.
constexpr double notable_difference = 0.1;

/// Enough that weights come from as far away as in a long run of them, not from the nearest cache.
constexpr int most_couplings_a_stage = 8;

/// The same layers: of each stage a rank's share, but no more couplings than tell.
Architecture short_network(const Architecture& whole, int num_ranks) {
  std::vector<int> blocks;
  for (const Stage& stage : whole.stages())
    blocks.push_back(std::min((stage.blocks + num_ranks - 1) / num_ranks,
                              most_couplings_a_stage / whole.rule().couplings_per_block));
  return Architecture({.arch = std::string(whole.rule().name),
                       .depth = std::nullopt,
                       .blocks = std::move(blocks),
                       .widths = whole.widths(),
                       .step_size = whole.step_size(),
                       .grid_bits = whole.grid_bits(),
                       .image_channels = whole.image_channels(),
                       .image_height = whole.image_height(),
                       .image_width = whole.image_width(),
                       .num_classes = whole.num_classes()});
}

/// One micro-batch through a network, forward and back.
class OneSweep {
 public:
  OneSweep(const RunPlan& plan, Backend<float>& backend, int batch)
      : network_(short_network(plan.architecture, plan.placement.num_ranks())),
        share_(network_, 0, {0, network_.num_blocks()}, backend, plan.activations, 1),
        adjoint_(share_.slice().adjoint_capacity(batch), Memory::state, backend.space()),
        backend_(backend),
        batch_(batch),
        labels_(batch) {
    share_.gradient().clear();
  }

  const Architecture& network() const { return network_; }

  /// Adds the seconds of each phase to `forward` and `back`.
  void play(PhaseTimer& forward, PhaseTimer& back) {
    TimeSlice<float>& slice = share_.slice();
    slice.begin_sweep(1);
    float* images = slice.images(0, batch_);
    const std::size_t size = std::size_t{1} * batch_ * network_.image_channels() *
                             network_.image_height() * network_.image_width();
    RandomStream random(1, Purpose::check, 0);
    for (std::size_t i = 0; i < size; ++i) images[i] = static_cast<float>(random.uniform(-1, 1));
    slice.set_labels(0, labels_);
    slice.set_phase_timer(&forward);
    slice.forward(0, batch_, Mode::train, nullptr);
    backend_.wait(backend_.mark());
    slice.set_phase_timer(&back);
    slice.backward(0, batch_, batch_, nullptr, adjoint_.data());
    slice.finish_sweep();
  }

 private:
  Architecture network_;
  Share<float> share_;
  Buffer<float> adjoint_;
  Backend<float>& backend_;
  int batch_;
  std::vector<std::uint8_t> labels_;
};

/// Least nanoseconds of a phase, over the rounds but the first.
class Least {
 public:
  void note(double seconds) { least_ = std::min(least_, seconds); }
  std::int64_t nanoseconds() const { return std::llround(1e9 * least_); }

 private:
  double least_ = std::numeric_limits<double>::infinity();
};

/// Every cost of the layers, in a fixed order.
template <typename Costs, typename Visit>
void for_each_cost(Costs& costs, Visit&& visit) {
  const auto both = [&](auto& cost) {
    visit(cost.forward);
    visit(cost.back);
  };
  both(costs.opening);
  both(costs.closing);
  for (auto& cost : costs.blocks) both(cost);
  for (auto& cost : costs.transitions) both(cost);
  visit(costs.message_value);
}

std::vector<double> to_numbers(const LayerCosts& costs) {
  std::vector<double> numbers;
  for_each_cost(costs, [&](auto cost) { numbers.push_back(static_cast<double>(cost)); });
  return numbers;
}

/// costs: of the same network.
LayerCosts from_numbers(LayerCosts costs, std::span<const double> numbers) {
  auto next = numbers.begin();
  for_each_cost(costs,
                [&](auto& cost) { cost = static_cast<std::decay_t<decltype(cost)>>(*next++); });
  return costs;
}

}  // namespace

LayerCosts time_layers(const RunPlan& plan, Backend<float>& backend, int batch) {
  OneSweep sweep(plan, backend, batch);
  const int num_stages = static_cast<int>(sweep.network().stages().size());
  struct Phases {
    explicit Phases(int stages) : stage(stages) {}
    Least opening, closing, transition;
    std::vector<Least> stage;
  };
  Phases forward(num_stages), back(num_stages);
  for (int round = 0; round < num_rounds; ++round) {
    PhaseTimer ahead(num_stages), backward(num_stages);
    sweep.play(ahead, backward);
    if (round == 0) continue;
    const auto note = [&](Phases& phases, const PhaseTimer& timer, Phase stage_phase) {
      phases.opening.note(timer.seconds(Phase::opening));
      phases.closing.note(timer.seconds(Phase::closing));
      phases.transition.note(timer.seconds(Phase::transition));
      for (int k = 0; k < num_stages; ++k) phases.stage[k].note(timer.seconds(stage_phase, k));
    };
    note(forward, ahead, Phase::stage_forward);
    note(back, backward, Phase::stage_back);
  }
  LayerCosts costs = uniform_costs(plan.architecture);
  costs.opening = {forward.opening.nanoseconds(), back.opening.nanoseconds()};
  costs.closing = {forward.closing.nanoseconds(), back.closing.nanoseconds()};
  double all_pixels = 0;
  const auto pixels = [&](int k) {
    const Stage& stage = plan.architecture.stages()[k];
    return static_cast<double>(stage.channels) * static_cast<double>(stage.plane_size());
  };
  for (int k = 0; k + 1 < num_stages; ++k) all_pixels += pixels(k);
  for (int k = 0; k < num_stages; ++k) {
    const int blocks = sweep.network().stages()[k].blocks;
    costs.blocks[k] = {forward.stage[k].nanoseconds() / blocks,
                       back.stage[k].nanoseconds() / blocks};
    if (k + 1 == num_stages) break;
    // Transitions are timed together; each takes what its pixels take.
    const auto share = [&](const Least& all) {
      return std::llround(static_cast<double>(all.nanoseconds()) * pixels(k) / all_pixels);
    };
    costs.transitions[k] = {share(forward.transition), share(back.transition)};
  }
  return costs;
}

double time_messages(const RunPlan& plan, const Grid& grid, int batch) {
  const Stage& stage = plan.architecture.stages().front();
  const std::size_t size =
      std::min(std::size_t{2} * batch * stage.channels * stage.plane_size(), most_values_sent);
  const Communicator& time = grid.time();
  const Placement chain = Placement::round_robin(time.size(), time.size());
  const int slice = chain.slices_of(time.rank()).front();
  std::vector<int> neighbours;  // slices
  if (!chain.is_first(slice)) neighbours.push_back(slice - 1);
  if (!chain.is_last(slice)) neighbours.push_back(slice + 1);
  // Other memory in each round, as in a step, so that caches do not help; written to, since what
  // never was is no memory yet.
  Buffer<float> memory(2 * num_rounds * neighbours.size() * size, Memory::state);
  std::ranges::fill(memory.span(), 1.0f);
  Least least;
  for (int round = 0; round < num_rounds; ++round) {
    std::vector<Request> requests;
    time.barrier();
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < neighbours.size(); ++i) {
      const std::span<float> both =
          memory.span().subspan(2 * (round * neighbours.size() + i) * size, 2 * size);
      const int peer = chain.rank_of(neighbours[i]);
      requests.push_back(time.receive(both.first(size), peer, {MessageKind::state, slice}));
      requests.push_back(time.send(both.last(size), peer, {MessageKind::state, neighbours[i]}));
    }
    for (Request& request : requests) request.wait();
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (round > 0) least.note(seconds);
  }
  if (neighbours.empty()) return 0;
  return static_cast<double>(least.nanoseconds()) /
         (2.0 * static_cast<double>(neighbours.size()) * static_cast<double>(size));
}

std::vector<LayerCosts> agree_on_costs(const RunPlan& plan, const LayerCosts& mine,
                                       const Grid& grid) {
  const std::vector<double> values = to_numbers(mine);
  const std::size_t size = values.size();
  // The slowest replica of a time rank holds the others up.
  const std::vector<double> of_replicas = grid.data().all_gather(values);
  std::vector<double> slowest = values;
  for (std::size_t i = 0; i < of_replicas.size(); ++i)
    slowest[i % size] = std::max(slowest[i % size], of_replicas[i]);
  const std::vector<double> all = grid.time().all_gather(slowest);

  const int num_ranks = grid.time().size();
  const BlockRange all_blocks{0, plan.architecture.num_blocks()};
  std::vector<LayerCosts> of_rank;
  std::vector<double> whole;
  for (int rank = 0; rank < num_ranks; ++rank) {
    of_rank.push_back(from_numbers(mine, std::span(all).subspan(rank * size, size)));
    whole.push_back(
        static_cast<double>(slice_cost(plan.architecture, of_rank.back(), all_blocks).total()));
  }
  const double median = spread_of(whole).median;
  const bool alike = std::ranges::all_of(
      whole, [&](double one) { return std::abs(one - median) <= notable_difference * median; });
  if (!alike) return of_rank;
  std::vector<double> medians(size);
  for (std::size_t i = 0; i < size; ++i) {
    std::vector<double> one;
    for (int rank = 0; rank < num_ranks; ++rank) one.push_back(all[rank * size + i]);
    medians[i] = spread_of(one).median;
  }
  return {from_numbers(mine, medians)};
}

}  // namespace revode
