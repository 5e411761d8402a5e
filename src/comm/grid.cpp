#include "revode/comm/grid.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

namespace revode {
namespace {

/// `hosts`, if there is one for each rank of the world and of the grid.
std::vector<std::string> checked(std::vector<std::string> hosts, const Communicator& world,
                                 int time_ranks, int data_ranks) {
  if (time_ranks < 1 || data_ranks < 1 || time_ranks * data_ranks != world.size() ||
      hosts.size() != static_cast<std::size_t>(world.size()))
    throw std::logic_error(fmt::format("a grid of {} x {} on {} ranks, with hosts of {}",
                                       time_ranks, data_ranks, world.size(), hosts.size()));
  return hosts;
}

}  // namespace

Grid::Grid(const Communicator& world, int time_ranks, int data_ranks,
           std::vector<std::string> hosts)
    : world_(world),
      hosts_(checked(std::move(hosts), world, time_ranks, data_ranks)),
      order_(order_ranks(hosts_, time_ranks)),
      time_(world.split(place() / time_ranks, place())),
      data_(world.split(place() % time_ranks, place())) {}

Grid::Grid(const Communicator& world, int time_ranks, int data_ranks)
    : Grid(world, time_ranks, data_ranks, std::vector<std::string>(world.size())) {}

int Grid::place() const {
  return static_cast<int>(std::ranges::find(order_, world_.rank()) - order_.begin());
}

}  // namespace revode
