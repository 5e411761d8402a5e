#include "revode/comm/grid.hpp"

#include <stdexcept>

#include <fmt/format.h>

namespace revode {
namespace {

/// time_ranks, if the grid has as many ranks as the world.
int checked(const Communicator& world, int time_ranks, int data_ranks) {
  if (time_ranks < 1 || data_ranks < 1 || time_ranks * data_ranks != world.size())
    throw std::logic_error(
        fmt::format("a grid of {} x {} on {} ranks", time_ranks, data_ranks, world.size()));
  return time_ranks;
}

}  // namespace

Grid::Grid(const Communicator& world, int time_ranks, int data_ranks)
    : world_(world),
      time_(world.split(world.rank() / checked(world, time_ranks, data_ranks))),
      data_(world.split(world.rank() % time_ranks)) {}

}  // namespace revode
