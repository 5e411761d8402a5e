#include "revode/comm/network_speed.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <limits>
#include <vector>

#include "revode/core/units.hpp"

namespace revode {
namespace {

constexpr MessageTag probe{MessageKind::state};
constexpr std::size_t large_message = std::size_t{1} << 21;  ///< values: 8 MiB

/// Seconds of a message of `size` values one way: half of the fastest of some rounds.
double seconds_of_message(const Communicator& world, int other, bool begins, std::size_t size,
                          int num_rounds) {
  std::vector<float> sent(size, 1), received(size);
  double fastest = std::numeric_limits<double>::infinity();
  for (int round = 0; round < num_rounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    if (begins) world.send(sent, other, probe).wait();
    world.receive(received, other, probe).wait();
    if (!begins) world.send(sent, other, probe).wait();
    if (round > 0) fastest = std::min(fastest, seconds_since(begin));  // the first one connects
  }
  return fastest / 2;
}

}  // namespace

std::optional<NetworkSpeed> measure_network(const Communicator& world,
                                            std::span<const std::string> hosts) {
  const auto elsewhere =
      std::ranges::find_if(hosts, [&](const std::string& host) { return host != hosts.front(); });
  if (elsewhere == hosts.end()) return std::nullopt;
  const auto second = static_cast<int>(elsewhere - hosts.begin());
  std::array<double, 2> seconds{};
  world.barrier();
  if (world.rank() == 0 || world.rank() == second) {
    const bool begins = world.rank() == 0;
    const int other = begins ? second : 0;
    seconds = {seconds_of_message(world, other, begins, 1, 200),
               seconds_of_message(world, other, begins, large_message, 20)};
  }
  world.broadcast(seconds, 0);
  const auto [of_one, of_many] = seconds;
  return NetworkSpeed{
      .latency_seconds = of_one,
      .bytes_per_second = large_message * sizeof(float) / std::max(of_many - of_one, 1e-9),
      .first = hosts.front(),
      .second = *elsewhere};
}

}  // namespace revode
