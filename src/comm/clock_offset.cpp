#include "revode/comm/clock_offset.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "revode/comm/agreement.hpp"

namespace revode {
namespace {

/// So many that one is likely to meet nothing on its way; 20 take less than a millisecond.
constexpr int num_clock_rounds = 20;
constexpr int clock_tag = static_cast<int>(MessageKind::clock);

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void send(std::int64_t value, int to, MPI_Comm handle) {
  const ActivityScope at({.what = "compares clocks", .waits_for = Activity::everybody});
  check_mpi(MPI_Send(&value, 1, MPI_INT64_T, to, clock_tag, handle), "MPI_Send");
}

std::int64_t receive(int from, MPI_Comm handle) {
  std::int64_t value = 0;
  const ActivityScope at({.what = "compares clocks", .waits_for = Activity::everybody});
  check_mpi(MPI_Recv(&value, 1, MPI_INT64_T, from, clock_tag, handle, MPI_STATUS_IGNORE),
            "MPI_Recv");
  return value;
}

void answer(int rank, MPI_Comm handle) {
  for (int round = 0; round < num_clock_rounds; ++round) {
    receive(rank, handle);
    send(now(), rank, handle);
  }
}

std::vector<PingPong> ask(MPI_Comm handle) {
  std::vector<PingPong> rounds;
  for (int round = 0; round < num_clock_rounds; ++round) {
    const std::int64_t sent = now();
    send(sent, 0, handle);
    const std::int64_t answered = receive(0, handle);
    rounds.push_back({sent, answered, now()});
  }
  return rounds;
}

}  // namespace

ClockOffset offset_of(std::span<const PingPong> rounds) {
  const auto length = [](const PingPong& round) { return round.received - round.sent; };
  const PingPong& fastest = *std::ranges::min_element(rounds, {}, length);
  const std::int64_t half = length(fastest) / 2, middle = fastest.sent + half;
  const std::int64_t ahead = fastest.answered - middle;
  // Rounded up: half of an odd length is rounded down.
  return {middle, std::abs(ahead) <= half + 1 ? 0 : ahead, half + 1};
}

ClockOffset measure_clock_offset(const Communicator& world) {
  if (!world.is_root()) return offset_of(ask(world.handle()));
  for (int rank = 1; rank < world.size(); ++rank) answer(rank, world.handle());
  return {now(), 0};
}

std::int64_t by_clock_of_root(std::int64_t time, const ClockOffset& first,
                              const ClockOffset& last) {
  // Clocks that may go at the same rate do: what is less sure must not bend them.
  const std::int64_t drift = last.ahead - first.ahead;
  if (last.at == first.at || std::abs(drift) <= first.uncertainty + last.uncertainty)
    return time + (first.uncertainty < last.uncertainty ? first : last).ahead;
  const double part =
      static_cast<double>(time - first.at) / static_cast<double>(last.at - first.at);
  const double change = part * static_cast<double>(drift);
  return time + first.ahead + std::llround(change);
}

std::vector<std::int64_t> delays_into_order(int num_ranks, std::span<const TimedMessage> messages) {
  std::vector<std::int64_t> delays(num_ranks, 0);
  // sent + delay of its rank <= arrived + delay of its: the longest path to each rank, which has
  // fewer messages than there are ranks.
  bool changed = true;
  for (int round = 0; changed && round < num_ranks; ++round) {
    changed = false;
    for (const TimedMessage& message : messages) {
      const std::int64_t least = delays[message.from] + message.sent - message.arrived;
      if (delays[message.to] >= least) continue;
      delays[message.to] = least;
      changed = true;
    }
  }
  return delays;
}

}  // namespace revode
