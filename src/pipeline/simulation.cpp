#include "revode/pipeline/simulation.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <queue>
#include <stdexcept>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "revode/pipeline/executor.hpp"

namespace revode {
namespace {

constexpr double never = std::numeric_limits<double>::infinity();

/// When ranks are to be looked at again; earliest first, then by rank.
class Clock {
 public:
  double now() const { return now_; }
  void wake(int rank, double time) { events_.emplace(time, rank); }
  /// The next rank to look at, -1 where none is left.
  int next() {
    if (events_.empty()) return -1;
    const auto [time, rank] = events_.top();
    events_.pop();
    now_ = time;
    return rank;
  }

 private:
  using Event = std::pair<double, int>;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  double now_ = 0;
};

/// Messages of all ranks, matched by sender, receiver and tag.
class Messages {
 public:
  Messages(Clock& clock, const SimulationCosts& costs, bool carry_values)
      : clock_(clock), costs_(costs), carry_values_(carry_values) {}

  struct Message {
    std::span<float> from;
    std::vector<float> copy;  // where the sender does not wait
    std::span<float> to;
    double sent = never, posted = never;
    double send_done = never, receive_done = never;
  };
  using Shared = std::shared_ptr<Message>;

  Shared send(std::span<float> values, int from, int to, const MessageTag& tag) {
    Shared message = find(from, to, tag);
    message->sent = clock_.now();
    message->from = values;
    if (costs_.delivery == Delivery::at_once) {
      message->send_done = clock_.now();
      if (carry_values_) message->copy.assign(values.begin(), values.end());
      message->from = message->copy;
    }
    match(*message, from, to, tag);
    return message;
  }

  Shared receive(std::span<float> values, int from, int to, const MessageTag& tag) {
    Shared message = find(from, to, tag);
    message->posted = clock_.now();
    message->to = values;
    match(*message, from, to, tag);
    return message;
  }

  const Clock& clock() const { return clock_; }
  bool exchanges() const { return costs_.delivery == Delivery::exchange; }

 private:
  using Key = std::tuple<int, int, MessageKind, int, int>;

  Shared find(int from, int to, const MessageTag& tag) {
    Shared& message = open_[{from, to, tag.kind, tag.slice, tag.micro_batch}];
    if (!message) message = std::make_shared<Message>();
    return message;
  }

  void match(Message& message, int from, int to, const MessageTag& tag) {
    if (message.sent == never || message.posted == never) return;
    if (carry_values_ && !exchanges()) std::ranges::copy(message.from, message.to.begin());
    const double ready = clock_.now();
    message.receive_done = ready + (costs_.message ? costs_.message(from, to, tag, ready) : 0);
    message.send_done = std::min(message.send_done, message.receive_done);
    clock_.wake(from, message.send_done == message.receive_done ? message.send_done : clock_.now());
    clock_.wake(to, message.receive_done);
    open_.erase({from, to, tag.kind, tag.slice, tag.micro_batch});
  }

  Clock& clock_;
  const SimulationCosts& costs_;
  bool carry_values_;
  std::map<Key, Shared> open_;
};

class SimulatedTransfer final : public Transfer {
 public:
  SimulatedTransfer(Messages::Shared message, const Messages& messages, bool is_send)
      : message_(std::move(message)), messages_(messages), is_send_(is_send) {}
  bool done() override {
    return (is_send_ ? message_->send_done : message_->receive_done) <= messages_.clock().now();
  }
  void* exchanged() const override {
    if (!messages_.exchanges()) return nullptr;
    return is_send_ ? message_->to.data() : message_->from.data();
  }

 private:
  Messages::Shared message_;
  const Messages& messages_;
  bool is_send_;
};

/// One rank's end of the messages.
class SimulatedTransport final : public Transport {
 public:
  SimulatedTransport(int rank, Messages& messages) : rank_(rank), messages_(messages) {}
  std::unique_ptr<Transfer> send(std::span<float> values, int to, const MessageTag& tag) override {
    return std::make_unique<SimulatedTransfer>(messages_.send(values, rank_, to, tag), messages_,
                                               true);
  }
  std::unique_ptr<Transfer> receive(std::span<float> values, int from,
                                    const MessageTag& tag) override {
    return std::make_unique<SimulatedTransfer>(messages_.receive(values, from, rank_, tag),
                                               messages_, false);
  }

 private:
  int rank_;
  Messages& messages_;
};

/// Counts the seconds of what is computed, and lets the caller's own work do it, if there is any.
class TimedWork final : public SliceWork {
 public:
  TimedWork(const SimulationCosts& costs, SliceWork* real) : costs_(costs), real_(real) {}

  std::size_t input_size(int slice, int micro_batch) const override {
    return real_ != nullptr ? real_->input_size(slice, micro_batch) : 0;
  }
  std::size_t output_size(int slice, int micro_batch) const override {
    return real_ != nullptr ? real_->output_size(slice, micro_batch) : 0;
  }
  void compute(const Work& work, float* state, float* adjoint) override {
    seconds_ += costs_.compute(work);
    last_ = work;
    if (real_ != nullptr) real_->compute(work, state, adjoint);
  }
  /// Of the work since the last call.
  double take_seconds() { return std::exchange(seconds_, 0.0); }
  /// The last that was computed.
  const Work& last() const { return last_; }

 private:
  const SimulationCosts& costs_;
  SliceWork* real_;
  double seconds_ = 0;
  Work last_{};
};

struct SimulatedRank {
  SimulatedRank(int rank, const Program& program, const Placement& placement, Messages& messages,
                const SimulationCosts& costs, Mailbox::SlotSize slot_size,
                const WorkOfRank& work_of_rank, CallQueue& queue)
      : transport(rank, messages),
        mailbox(rank, placement, transport, slot_size, queue),
        executor(mailbox),
        work(costs, work_of_rank ? &work_of_rank(rank) : nullptr) {
    mailbox.reserve(program);
    executor.begin(program, work);
  }

  SimulatedTransport transport;
  Mailbox mailbox;
  Executor executor;
  TimedWork work;
  double free_at = 0;  // before that it computes
};

}  // namespace

double SimulationResult::bubble() const {
  double work = 0;
  for (const Rank& rank : ranks) work += rank.busy_seconds;
  return seconds > 0 ? 1 - work / (static_cast<double>(ranks.size()) * seconds) : 0;
}

SimulationResult simulate(const std::vector<Program>& programs, const Placement& placement,
                          const SimulationCosts& costs, Mailbox::SlotSize slot_size,
                          const WorkOfRank& work_of_rank, CallQueue& queue) {
  Clock clock;
  Messages messages(clock, costs, slot_size.state > 0);
  std::vector<std::unique_ptr<SimulatedRank>> ranks;
  SimulationResult result;
  for (int rank = 0; rank < placement.num_ranks(); ++rank) {
    ranks.push_back(std::make_unique<SimulatedRank>(rank, programs[rank], placement, messages,
                                                    costs, slot_size, work_of_rank, queue));
    result.ranks.emplace_back();
    clock.wake(rank, 0);
  }
  try {
    for (int rank = clock.next(); rank >= 0; rank = clock.next()) {
      SimulatedRank& at = *ranks[rank];
      // Messages move while a rank computes, as they do while kernels run.
      if (clock.now() < at.free_at) at.mailbox.progress();
      while (clock.now() >= at.free_at && at.executor.try_next()) {
        const double seconds = at.work.take_seconds();
        if (seconds <= 0) continue;
        at.free_at = clock.now() + seconds;
        if (costs.on_work) costs.on_work(rank, at.work.last(), clock.now(), at.free_at);
        result.ranks[rank].busy_seconds += seconds;
        clock.wake(rank, at.free_at);
      }
      result.ranks[rank].end_seconds = std::max(clock.now(), at.free_at);
    }
  } catch (const std::logic_error& error) {
    result.faults.push_back(error.what());
    return result;
  }
  for (int rank = 0; rank < placement.num_ranks(); ++rank) {
    result.seconds = std::max(result.seconds, result.ranks[rank].end_seconds);
    SimulatedRank& at = *ranks[rank];
    if (at.executor.finished()) continue;
    const Instruction* next = at.executor.next();
    result.faults.push_back(
        fmt::format("rank {} never gets past {}; {}", rank,
                    next != nullptr ? to_string(*next) : "the end of its program",
                    fmt::join(at.mailbox.leftovers(), ", ")));
    for (const std::size_t pool : at.mailbox.exhausted_pools())
      result.exhausted_pools.emplace_back(rank, pool);
  }
  return result;
}

std::vector<Program> make_programs(const std::vector<WorkOrder>& orders,
                                   const Placement& placement) {
  std::vector<Program> programs = lower(orders, placement);
  // Whether ranks wait for ever does not depend on how long work takes: each waits for messages of
  // one sender in their order, or for a slot of one pool.
  const SimulationCosts costs{.compute = [](const Work&) { return 1.0; }};
  while (true) {
    const SimulationResult result = simulate(programs, placement, costs);
    if (result.faults.empty()) return programs;
    bool grew = false;
    for (const auto& [rank, pool] : result.exhausted_pools) {
      SlotPool& exhausted = programs[rank].pools[pool];
      ++exhausted.num_slots;
      grew = true;
    }
    if (!grew) throw std::logic_error(result.faults.front());
  }
}

std::vector<Program> make_programs(const ScheduleRule& rule, const Placement& placement,
                                   int num_micro_batches) {
  std::vector<WorkOrder> orders;
  for (int rank = 0; rank < placement.num_ranks(); ++rank)
    orders.push_back(rule.make(rank, placement, num_micro_batches));
  return make_programs(orders, placement);
}

std::vector<Program> make_forward_programs(const Placement& placement, int num_micro_batches) {
  std::vector<WorkOrder> orders;
  for (int rank = 0; rank < placement.num_ranks(); ++rank)
    orders.push_back(forward_order(rank, placement, num_micro_batches));
  return make_programs(orders, placement);
}

}  // namespace revode
