#include "revode/train/layer_timing.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include "revode/core/activity.hpp"
#include "revode/core/phase_timer.hpp"
#include "revode/core/random.hpp"
#include "revode/core/spread.hpp"
#include "revode/core/units.hpp"
#include "revode/model/share.hpp"
#include "revode/pipeline/transport.hpp"

namespace revode {
namespace {

/// The first warms caches and makes scratch.
constexpr int num_rounds = 7;
/// Of layers that take long, where rounds beyond `fewest_rounds` would hold up the start.
constexpr int fewest_rounds = 4;
constexpr auto long_enough = std::chrono::milliseconds(500);
/// Of a timed message: 1 MiB.
constexpr std::size_t most_values_sent = std::size_t{1} << 18;
/// Ranks within this of the median are alike: less is noise.
constexpr double notable_difference = 0.1;

/// Enough that weights come from as far away as in a long run of them, not from the nearest cache.
constexpr int most_couplings_a_stage = 8;

/// The same layers: of each stage a rank's share, but no more couplings than tell, and two blocks
/// where there are as many, which tell what a visit takes.
Architecture short_network(const Architecture& whole, int num_ranks) {
  std::vector<int> blocks;
  for (const Stage& stage : whole.stages()) {
    const int share = std::min((stage.blocks + num_ranks - 1) / num_ranks,
                               most_couplings_a_stage / whole.rule().couplings_per_block);
    blocks.push_back(std::min(stage.blocks, std::max(share, 2)));
  }
  return Architecture({.arch = std::string(whole.rule().name),
                       .depth = std::nullopt,
                       .blocks = std::move(blocks),
                       .widths = whole.widths(),
                       .step_size = whole.step_size(),
                       .grid_bits = whole.grid_bits(),
                       .precision = whole.precision(),
                       .image_channels = whole.image_channels(),
                       .image_height = whole.image_height(),
                       .image_width = whole.image_width(),
                       .num_classes = whole.num_classes()});
}

/// Nanoseconds of the layers in every round, forward or back.
class Times {
 public:
  explicit Times(int num_stages) : stages_(num_stages) {}

  void note(const PhaseTimer& timer, Phase stage_phase) {
    opening_.push_back(1e9 * timer.seconds(Phase::opening));
    closing_.push_back(1e9 * timer.seconds(Phase::closing));
    transitions_.push_back(1e9 * timer.seconds(Phase::transition));
    for (int k = 0; k < timer.num_stages(); ++k)
      stages_[k].push_back(1e9 * timer.seconds(stage_phase, k));
  }

  double opening() const { return spread_of(opening_).median; }
  double closing() const { return spread_of(closing_).median; }
  double transitions() const { return spread_of(transitions_).median; }
  double stage(int k) const { return spread_of(stages_[k]).median; }

 private:
  std::vector<double> opening_, closing_, transitions_;
  std::vector<std::vector<double>> stages_;
};

/// One micro-batch through a network that is cut into slices, forward and back.
class OneSweep {
 public:
  OneSweep(const Architecture& network, int blocks_a_slice, Activations activations,
           Backend<float>& backend, int batch)
      : network_(network),
        backend_(backend),
        batch_(batch),
        images_(std::size_t{1} * batch * network.image_channels() * network.image_height() *
                    network.image_width(),
                Memory::workspace, backend),
        labels_(batch),
        forward_(static_cast<int>(network.stages().size())),
        back_(forward_) {
    for (int first = 0; first < network.num_blocks(); first += blocks_a_slice) {
      const BlockRange range{first, std::min(first + blocks_a_slice, network.num_blocks())};
      shares_.push_back(std::make_unique<Share<float>>(network_, static_cast<int>(shares_.size()),
                                                       range, backend, activations, 1));
      shares_.back()->gradient().clear();
    }
    std::size_t state_size = 0, adjoint_size = 0;
    for (const auto& share : shares_) {
      state_size = std::max(state_size, share->slice().message_capacity(batch));
      adjoint_size = std::max(adjoint_size, share->slice().adjoint_capacity(batch));
    }
    state_ = Buffer<float>(state_size, Memory::state, backend.space());
    adjoint_ = Buffer<float>(adjoint_size, Memory::state, backend.space());
    RandomStream random(1, Purpose::check, 0);
    for (float& value : images_.host()) value = static_cast<float>(random.uniform(-1, 1));
    images_.store();
  }

  const Times& forward() const { return forward_; }
  const Times& back() const { return back_; }

  void play(bool is_noted) {
    PhaseTimer forward(static_cast<int>(network_.stages().size()), backend_), back = forward;
    for (const auto& share : shares_) share->slice().begin_sweep(1);
    backend_.copy(shares_.front()->slice().images(0, batch_), images_.data(), images_.bytes());
    shares_.back()->slice().set_labels(0, labels_);
    for (const auto& share : shares_) {
      share->slice().set_phase_timer(&forward);
      share->slice().forward(0, batch_, Mode::train, state_.data());
    }
    backend_.wait(backend_.mark());
    for (auto share = shares_.rbegin(); share != shares_.rend(); ++share) {
      (*share)->slice().set_phase_timer(&back);
      (*share)->slice().backward(0, batch_, batch_, state_.data(), adjoint_.data());
    }
    for (const auto& share : shares_) share->slice().finish_sweep();
    for (const auto& share : shares_) share->slice().take_notes();
    forward.settle();
    back.settle();
    if (!is_noted) return;
    forward_.note(forward, Phase::stage_forward);
    back_.note(back, Phase::stage_back);
  }

 private:
  const Architecture& network_;
  Backend<float>& backend_;
  int batch_;
  std::vector<std::unique_ptr<Share<float>>> shares_;
  Buffer<float> state_, adjoint_;
  StagedBuffer<float> images_;
  std::vector<std::uint8_t> labels_;
  Times forward_, back_;
};

/// Of one block, and of a visit, from the times of a stage's blocks in one slice and in slices of
/// one block.
struct StageTime {
  StageTime(double together, double apart, int num_blocks)
      : visit(num_blocks > 1 ? std::max(0.0, (apart - together) / (num_blocks - 1)) : 0),
        block(std::max(0.0, (together - visit) / num_blocks)) {}

  double visit, block;
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
  for (auto& cost : costs.visits) both(cost);
  visit(costs.message_value);
  visit(costs.copied_value);
  visit(costs.message_latency);
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
  const ActivityScope at({.what = "times layers"});
  const Architecture network = short_network(plan.architecture, plan.placement.num_ranks());
  OneSweep whole(network, network.num_blocks(), plan.activations, backend, batch);
  OneSweep in_blocks(network, 1, plan.activations, backend, batch);
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < num_rounds; ++round) {
    if (round >= fewest_rounds && std::chrono::steady_clock::now() - start > long_enough) break;
    whole.play(round > 0);
    in_blocks.play(round > 0);
  }
  const Times &forward = whole.forward(), &back = whole.back();
  const auto rounded = [](double ahead, double backward) {
    return SweepCost{std::llround(ahead), std::llround(backward)};
  };
  LayerCosts costs = uniform_costs(plan.architecture);
  costs.opening = rounded(forward.opening(), back.opening());
  costs.closing = rounded(forward.closing(), back.closing());
  const int num_stages = static_cast<int>(network.stages().size());
  double all_pixels = 0;
  const auto pixels = [&](int k) {
    const Stage& stage = network.stages()[k];
    return static_cast<double>(stage.channels) * static_cast<double>(stage.plane_size());
  };
  for (int k = 0; k + 1 < num_stages; ++k) all_pixels += pixels(k);
  for (int k = 0; k < num_stages; ++k) {
    const int blocks = network.stages()[k].blocks;
    const StageTime ahead(forward.stage(k), in_blocks.forward().stage(k), blocks);
    const StageTime backward(back.stage(k), in_blocks.back().stage(k), blocks);
    costs.blocks[k] = rounded(ahead.block, backward.block);
    costs.visits[k] = rounded(ahead.visit, backward.visit);
    if (k + 1 == num_stages) break;
    // Transitions are timed together; each takes what its pixels take.
    const double part = pixels(k) / all_pixels;
    costs.transitions[k] = rounded(part * forward.transitions(), part * back.transitions());
  }
  return costs;
}

namespace {

/// What a rank exchanges with one neighbour in one round.
struct TimedMessage {
  int peer;
  MessageTag sent_tag, received_tag;
  Buffer<float> sent, received;
};

/// Reads and writes every value, as packing and unpacking states do.
void touch(std::span<float> values) {
  for (float& value : values) value = 1 - value;
}

/// All at once.
void exchange(std::vector<TimedMessage>& messages, MpiTransport& transport) {
  struct UnderWay {
    Buffer<float>* array;
    std::unique_ptr<Transfer> transfer;
  };
  std::vector<UnderWay> under_way;
  for (TimedMessage& message : messages) {
    under_way.push_back({&message.received, transport.receive(message.received.span(), message.peer,
                                                              message.received_tag)});
    under_way.push_back(
        {&message.sent, transport.send(message.sent.span(), message.peer, message.sent_tag)});
  }
  while (!under_way.empty()) {
    std::erase_if(under_way, [](UnderWay& one) {
      if (!one.transfer->done()) return false;
      if (void* array = one.transfer->exchanged()) one.array->exchange(static_cast<float*>(array));
      return true;
    });
  }
}

/// Seconds of exchanging all messages and of touching what was received, beyond those of touching
/// as much that this rank had before.
double seconds_of(std::vector<TimedMessage>& messages, MpiTransport& transport) {
  for (TimedMessage& message : messages) touch(message.sent.span());
  const auto begin = std::chrono::steady_clock::now();
  for (TimedMessage& message : messages) touch(message.sent.span());
  const double touching = seconds_since(begin);

  const auto start = std::chrono::steady_clock::now();
  exchange(messages, transport);
  for (TimedMessage& message : messages) touch(message.received.span());
  return std::max(0.0, seconds_since(start) - touching);
}

/// Of `size` values each, in arrays of `memory`, with every neighbour in a chain of the ranks.
std::vector<TimedMessage> messages_with_neighbours(const Communicator& ranks, MemorySpace& memory,
                                                   std::size_t size) {
  const Placement chain = Placement::round_robin(ranks.size(), ranks.size());
  const int slice = chain.slices_of(ranks.rank()).front();
  std::vector<int> neighbours;  // slices
  if (!chain.is_first(slice)) neighbours.push_back(slice - 1);
  if (!chain.is_last(slice)) neighbours.push_back(slice + 1);
  std::vector<TimedMessage> messages;
  for (const int neighbour : neighbours) {
    messages.push_back({.peer = chain.rank_of(neighbour),
                        .sent_tag = {MessageKind::state, neighbour},
                        .received_tag = {MessageKind::state, slice},
                        .sent = Buffer<float>(size, Memory::state, memory),
                        .received = Buffer<float>(size, Memory::state, memory)});
    touch(messages.back().received.span());  // what never was written to is no memory yet
  }
  return messages;
}

/// Nanoseconds for each value of messages of `size` values in arrays of `memory`.
double time_messages(const Communicator& time, MpiTransport& transport, MemorySpace& memory,
                     std::size_t size) {
  // Other memory in each round, as in a step, so that caches do not help.
  std::vector<std::vector<TimedMessage>> rounds;
  for (int round = 0; round < num_rounds; ++round)
    rounds.push_back(messages_with_neighbours(time, memory, size));
  transport.publish();
  std::vector<double> nanoseconds;
  for (int round = 0; round < num_rounds; ++round) {
    time.barrier();
    const double seconds = seconds_of(rounds[round], transport);
    if (round > 0) nanoseconds.push_back(1e9 * seconds);
  }
  const std::size_t num_neighbours = rounds.front().size();
  if (num_neighbours == 0) return 0;
  return spread_of(nanoseconds).median /
         (2.0 * static_cast<double>(num_neighbours) * static_cast<double>(size));
}

/// Nanoseconds until a message of one value is there: neighbours exchange them in turns, each rank
/// its next when the other's last has come. The fastest of some rounds, as what makes others slower
/// is no message.
double time_latency(const Communicator& time, MpiTransport& transport, MemorySpace& memory) {
  constexpr int num_turns = 20;
  std::vector<TimedMessage> messages = messages_with_neighbours(time, memory, 1);
  transport.publish();
  double fastest = std::numeric_limits<double>::infinity();
  for (int round = 0; round < num_rounds; ++round) {
    time.barrier();
    const auto start = std::chrono::steady_clock::now();
    for (int turn = 0; turn < num_turns; ++turn) exchange(messages, transport);
    fastest = std::min(fastest, seconds_since(start) / num_turns);
  }
  return messages.empty() ? 0 : 1e9 * fastest;
}

}  // namespace

void time_messages(const RunPlan& plan, const Grid& grid, int batch, LayerCosts& costs) {
  const Stage& stage = plan.architecture.stages().front();
  const std::size_t size =
      std::min(std::size_t{2} * batch * stage.channels * stage.plane_size(), most_values_sent);
  // Where no time ranks send each other states, replicas still add up gradients.
  const Communicator& neighbours = grid.time().size() > 1 ? grid.time() : grid.data();
  MpiTransport transport(neighbours, size, size);
  // Arrays of this process alone can only be copied.
  costs.copied_value = time_messages(neighbours, transport, host_memory(), size);
  costs.message_value = time_messages(neighbours, transport, transport.memory(), size);
  costs.message_latency = time_latency(neighbours, transport, transport.memory());
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
