// The steady clocks of the ranks brought together: those of different hosts begin anywhere, and run
// a little faster or slower. Times are nanoseconds.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "revode/comm/communicator.hpp"

namespace revode {

/// A question to rank 0 and its answer: sent and received by the clock of who asks, answered by
/// that of rank 0.
struct PingPong {
  std::int64_t sent;
  std::int64_t answered;
  std::int64_t received;
};

/// What has to be added to a clock for that of rank 0, at a time of the clock.
struct ClockOffset {
  std::int64_t at;
  std::int64_t ahead;
  std::int64_t uncertainty = 0;  ///< half the round trip that it comes from
};

/// From the fastest of the rounds, at least one, as if both ways took equally long: off by at most
/// half that round. 0 where that is no further off, so that ranks of one host have one clock.
ClockOffset offset_of(std::span<const PingPong> rounds);

/// Of this rank, now. Collective; takes 20 round trips of each rank in turn.
ClockOffset measure_clock_offset(const Communicator& world);

/// `time` by the clock of rank 0: the offset changes linearly from `first` to `last`, if they
/// differ by more than they are uncertain; else it is the surer of both throughout.
std::int64_t by_clock_of_root(std::int64_t time, const ClockOffset& first, const ClockOffset& last);

/// A message as the clocks of its two ranks tell it.
struct TimedMessage {
  int from;
  int to;
  std::int64_t sent;
  std::int64_t arrived;
};

/// The least delays, 0 or more and one a rank, after which no message arrives before it was sent:
/// what is left of the error of the offsets. Where clocks contradict each other, as they do when
/// one has jumped, some messages still do.
std::vector<std::int64_t> delays_into_order(int num_ranks, std::span<const TimedMessage> messages);

}  // namespace revode
