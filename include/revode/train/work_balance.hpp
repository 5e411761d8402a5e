// How evenly the ranks of a run share its work, as measured while it went: who works, who waits,
// and who holds the others up.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "revode/comm/communicator.hpp"

namespace revode {

/// Sums over the steps of a run, by rank.
struct WorkBalance {
  double step_seconds = 0;              ///< of all steps, on the rank that took longest
  std::vector<double> work_seconds;     ///< slices taken forward and back
  std::vector<double> waiting_seconds;  ///< for messages

  /// 1 - work / (ranks * step): what the ranks do beside going forward and back counts as idle. 0
  /// where there was no step.
  double bubble() const;

  struct Slowest {
    int rank;
    double excess;  ///< 0.5: its work took half as long again as the others' on average
  };
  /// The rank whose work took longest, where it exceeds the mean of the others by more than a
  /// tenth.
  std::optional<Slowest> slowest() const;
};

/// Collective.
WorkBalance gather_balance(double step_seconds, double work_seconds, double waiting_seconds,
                           const Communicator& world);

/// Lines of the summary at the end of a run. predicted_bubble: the simulation's; hosts: by rank.
std::string balance_lines(const WorkBalance& balance, double predicted_bubble,
                          const std::vector<std::string>& hosts);

}  // namespace revode
